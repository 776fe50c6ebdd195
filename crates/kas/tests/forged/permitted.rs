//! A verdict is not for others to make either.
fn main() {
    let _ = kasbah_kas::access::Verdict { permit: Ok(()) };
}
