-- The document of entitlements, as its author wrote it.
CREATE TABLE entitlements (
    singleton BIGINT PRIMARY KEY CHECK (singleton = 1),
    document TEXT NOT NULL,
    -- Revision of its last change.
    revision BIGINT NOT NULL
);
