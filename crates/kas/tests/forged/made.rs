//! Nobody but the decision code makes an `AccessGranted`.
fn main() {
    let _ = kasbah_kas::AccessGranted { subject: String::new() };
}
