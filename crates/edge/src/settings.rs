use std::time::Duration;

/// What connections and calls may take from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLimits {
    /// Connections at the same time; more wait in the backlog of the listener.
    pub connections: usize,
    /// Calls under way at the same time, over all connections; more are refused before their body
    /// is read.
    pub calls: usize,
    /// Bytes of bodies of calls under way, over all connections.
    pub body_bytes: usize,
    /// Largest message, in bytes, before and after decompression.
    pub message_bytes: usize,
    /// Largest message of a call that needs no access token, in bytes.
    pub open_message_bytes: usize,
    /// Header bytes of one request.
    pub header_bytes: u32,
    /// HTTP/2 streams one connection may have open.
    pub streams_per_connection: u32,
    /// How long a call may take, from its first byte to its answer; a shorter timeout of the client
    /// wins.
    pub call_timeout: Duration,
    /// How long a connection may take to its first request, the TLS handshake included.
    pub first_request_timeout: Duration,
    /// How long a connection may be open without a request under way, and how long one may take to
    /// send the header of a request.
    pub idle_timeout: Duration,
}

impl Default for EdgeLimits {
    /// 4096 connections, 1024 calls, 256 MiB of bodies, messages of 4 MiB, of 16 KiB without a
    /// token; 31 seconds for a call, 10 to the first request, 90 without one.
    fn default() -> Self {
        Self {
            connections: 4096,
            calls: 1024,
            body_bytes: 256 << 20,
            message_bytes: 4 << 20,
            open_message_bytes: 16 << 10,
            header_bytes: 64 << 10,
            streams_per_connection: 256,
            call_timeout: Duration::from_secs(31),
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
        }
    }
}
