//! Nobody but the gate makes a caller.
fn main() {
    let _ = |token| kasbah_auth::Caller {
        token,
        client_id: String::new(),
        proof: kasbah_auth::Proof::Mtls,
        proof_key: None,
        sees_private: true,
    };
}
