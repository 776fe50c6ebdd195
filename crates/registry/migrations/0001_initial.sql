-- BYTES is each database's own type of bytes.
-- Times are microseconds since 1970 (UTC), ids are UUIDs in lower case, labels are JSON objects.
CREATE TABLE registry_state (
    singleton BIGINT PRIMARY KEY CHECK (singleton = 1),
    -- Grows with every change; every writer takes this row first.
    revision BIGINT NOT NULL
);
INSERT INTO registry_state (singleton, revision) VALUES (1, 1);

CREATE TABLE kas (
    id TEXT PRIMARY KEY,
    uri TEXT NOT NULL UNIQUE,
    name TEXT UNIQUE,
    source_type BIGINT NOT NULL,
    -- The deprecated policy.PublicKey, as a protobuf message.
    public_key BYTES NOT NULL,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE provider (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    manager TEXT NOT NULL,
    -- Exactly as sent.
    config_json BYTES NOT NULL,
    labels TEXT NOT NULL,
    -- Path of the file that declares it.
    file TEXT,
    -- Revision of its last change.
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (name, manager)
);

CREATE TABLE kas_key (
    id TEXT PRIMARY KEY,
    kas_id TEXT NOT NULL REFERENCES kas (id),
    kid TEXT NOT NULL,
    algorithm BIGINT NOT NULL,
    status BIGINT NOT NULL,
    -- What a disabled key was before.
    resumes BIGINT,
    mode BIGINT NOT NULL,
    public_pem TEXT NOT NULL,
    private_key_id TEXT,
    wrapped_key TEXT,
    provider_id TEXT REFERENCES provider (id),
    legacy BIGINT NOT NULL,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (kas_id, kid)
);
CREATE UNIQUE INDEX kas_key_legacy ON kas_key (kas_id) WHERE legacy = 1;
CREATE INDEX kas_key_provider ON kas_key (provider_id);
CREATE INDEX kas_key_created ON kas_key (created_at, id);

CREATE TABLE base_key (
    singleton BIGINT PRIMARY KEY CHECK (singleton = 1),
    key_id TEXT NOT NULL REFERENCES kas_key (id)
);

-- Which policy objects a key is mapped to: 1 namespace, 2 attribute definition, 3 value.
CREATE TABLE key_mapping (
    kind BIGINT NOT NULL,
    object_id TEXT NOT NULL,
    fqn TEXT NOT NULL,
    key_id TEXT NOT NULL REFERENCES kas_key (id) ON DELETE CASCADE,
    PRIMARY KEY (kind, object_id, key_id)
);
CREATE INDEX key_mapping_key ON key_mapping (key_id);

CREATE TABLE key_use (
    key_id TEXT PRIMARY KEY REFERENCES kas_key (id) ON DELETE CASCADE,
    uses BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);

-- Keys that are being made in a device: written before, removed with the registration.
CREATE TABLE key_intent (
    id TEXT PRIMARY KEY,
    kas_id TEXT NOT NULL REFERENCES kas (id),
    kid TEXT NOT NULL,
    algorithm BIGINT NOT NULL,
    mode BIGINT NOT NULL,
    provider_id TEXT NOT NULL REFERENCES provider (id),
    legacy BIGINT NOT NULL,
    labels TEXT NOT NULL,
    rotates TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (kas_id, kid)
);
