-- Proofs of possession that nodes have seen (RFC 9449). Hashes are SHA-256.
CREATE TABLE seen_proof (
    -- Of the signer's key and the proof's `jti`.
    proof BYTES PRIMARY KEY,
    -- Of the signer's key.
    signer BYTES NOT NULL,
    -- Last second in which the proof would be accepted, since 1970.
    expires BIGINT NOT NULL
);
CREATE INDEX seen_proof_signer ON seen_proof (signer, expires);
CREATE INDEX seen_proof_expires ON seen_proof (expires);
