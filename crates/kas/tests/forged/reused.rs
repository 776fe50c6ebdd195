//! A grant is spent by its first use.
fn redeem(_: kasbah_kas::AccessGranted) {}

fn twice(granted: kasbah_kas::AccessGranted) {
    redeem(granted);
    redeem(granted);
}

fn main() {
    let _ = twice;
}
