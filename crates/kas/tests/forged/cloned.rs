//! One grant is one data key.
fn twice(granted: &kasbah_kas::AccessGranted) -> kasbah_kas::AccessGranted {
    Clone::clone(granted)
}

fn main() {
    let _ = twice;
}
