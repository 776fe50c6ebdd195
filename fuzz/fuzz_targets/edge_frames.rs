//! A call by gRPC, gRPC-Web or Connect: messages in envelopes, whole or not, compressed or not.
#![no_main]

use axum::body::Body;
use http::{Request, StatusCode};
use kasbah_fuzz::{PATHS, call};
use kasbah_proto::kas::PublicKeyRequest;
use prost::Message;

/// Content types, and the header that names the compression in each.
const TYPES: [(&str, &str); 9] = [
    ("application/grpc", "grpc-encoding"),
    ("application/grpc+proto", "grpc-encoding"),
    ("application/grpc+json", "grpc-encoding"),
    ("application/grpc-web", "grpc-encoding"),
    ("application/grpc-web+json", "grpc-encoding"),
    ("application/grpc-web-text", "grpc-encoding"),
    ("application/connect+proto", "connect-content-encoding"),
    ("application/connect+json", "connect-content-encoding"),
    ("application/proto", "content-encoding"),
];

libfuzzer_sys::fuzz_target!(
    init: {
        let message = PublicKeyRequest { algorithm: "rsa:2048".into(), ..Default::default() };
        let (status, answer) = send(TYPES[3], PATHS[0], "identity", framed(&message.encode_to_vec()));
        assert_eq!(status, StatusCode::OK);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("rsa:2048") && answer.contains("grpc-status"), "{answer}");
    },
    |bytes: &[u8]| {
        let [choice, how, body @ ..] = bytes else { return };
        let kind = TYPES[usize::from(*choice) % TYPES.len()];
        let encoding = ["identity", "gzip", "br"][usize::from(how >> 4) % 3];
        let body = if how & 4 == 0 { body.to_vec() } else { framed(body) };
        send(kind, PATHS[usize::from(how % 4)], encoding, body);
    }
);

fn send(
    (kind, encoded_by): (&str, &str),
    path: &str,
    encoding: &str,
    body: Vec<u8>,
) -> (StatusCode, Vec<u8>) {
    let mut request = Request::post(path).header("content-type", kind);
    if encoding != "identity" {
        request = request.header(encoded_by, encoding);
    }
    call(request.body(Body::from(body)).expect("a request"))
}

/// In one envelope that is right.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), message].concat()
}
