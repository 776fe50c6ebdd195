//! The data plane of a Key Access Server: rewrap, public keys, access, audit.
