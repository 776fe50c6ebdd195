//! The decision itself is not for others to call.
fn main() {
    let _ = kasbah_kas::access::decide;
}
