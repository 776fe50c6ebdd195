//! How the access token is brought, and to where.

use serde_json::json;

use super::{
    rig::{CANARY, PATH},
    table::{Case, Refused, case, proof, token},
};

const SEVERAL: &str = "there are several authorization headers";
const SCHEME: &str = "the scheme is neither `Bearer ` nor `DPoP ` with a token";
const FORM: &str = "it is not a compact JWS with JSON objects in it";
const COUNT: &str = "there is not exactly one proof of possession";
const METHOD: &str = "the proof is for another method";

pub(super) fn cases() -> Vec<Case> {
    [schemes(), headers(), targets()].into_iter().flatten().collect()
}

fn schemes() -> Vec<Case> {
    let written = |before: &'static str, reason| {
        token(format!("scheme: {before:?}"), reason, move |s| {
            s.scheme(move |token| format!("{before}{token}"));
        })
    };
    let without_token = |text: &'static str| {
        token(format!("scheme: {text:?} and no token"), SCHEME, move |s| {
            s.scheme(move |_| text.to_owned());
        })
    };
    let mut cases: Vec<_> = [
        "bearer ",
        "BEARER ",
        "dpop ",
        "DPOP ",
        "Dpop ",
        "Basic ",
        "Token ",
        "JWT ",
        "Negotiate ",
        "Digest ",
        "",
        " DPoP ",
        "\tDPoP ",
        "DPoP\t",
        "DPoP:",
        "DPoP=",
        "DPoP",
        "Bearer\t",
        "Bearer,",
        "\"DPoP ",
        "DPoP,Bearer ",
    ]
    .into_iter()
    .map(|before| written(before, SCHEME))
    .collect();
    cases.extend(
        ["DPoP  ", "Bearer  ", "DPoP \t", "DPoP DPoP ", "DPoP Bearer ", "Bearer token="]
            .map(|before| written(before, FORM)),
    );
    cases.extend(["", " ", "DPoP", "DPoP ", "Bearer", "Bearer ", "Basic"].map(without_token));
    cases.extend([
        token("scheme: Bearer and a comma", FORM, |s| s.scheme(|_| "Bearer ,".to_owned())),
        token("scheme: Basic with a password", SCHEME, |s| {
            s.scheme(|_| format!("Basic {}", super::keys::encode(format!("client:{CANARY}"))));
        }),
        // Five parts, as if it were encrypted.
        token("scheme: two joined by a comma", "it is encrypted", |s| {
            s.scheme(|token| format!("DPoP {token}, DPoP {token}"));
        }),
        token("scheme: two joined by a comma, the second is good", "it is encrypted", |s| {
            s.scheme(|token| format!("Bearer {CANARY}.{CANARY}.{CANARY}, DPoP {token}"));
        }),
        token("scheme: a name and a comma before", FORM, |s| {
            s.scheme(|token| format!("Bearer {CANARY}, DPoP {token}"));
        }),
        token("scheme: a comma behind", "its signature is wrong", |s| {
            s.scheme(|token| format!("DPoP {token},"));
        }),
        token("scheme: bytes that are no text", SCHEME, |s| {
            s.authorization = Box::new(|token| {
                let value = [b"DPoP ", token.as_bytes(), &[0xff]].concat();
                vec![("authorization", value)]
            });
        }),
        token("scheme: a wide space", SCHEME, |s| s.scheme(|token| format!("DPoP\u{a0}{token}"))),
        proof("scheme: Bearer with a bound token and no proof", COUNT, |s| {
            s.scheme(|token| format!("Bearer {token}"));
            s.proofs = Box::new(|_| Vec::new());
        }),
    ]);
    cases
}

fn headers() -> Vec<Case> {
    let named = |name: &'static str| {
        case(format!("header: {name} instead"), Refused::NoHeader, move |s| {
            s.authorization =
                Box::new(move |token| vec![(name, format!("DPoP {token}").into_bytes())]);
        })
    };
    let mut cases: Vec<_> =
        ["x-authorization", "proxy-authorization", "cookie", "x-forwarded-authorization"]
            .into_iter()
            .map(named)
            .collect();
    cases.extend([
        case("header: none", Refused::NoHeader, |s| s.authorization = Box::new(|_| Vec::new())),
        case("header: none, a token in the query", Refused::NoHeader, |s| {
            s.authorization = Box::new(|_| Vec::new());
            s.path = Box::new(|token| format!("{PATH}?access_token={token}"));
        }),
        token("header: two, the first is of another scheme", SEVERAL, |s| {
            s.schemes(|token| vec![format!("Basic {CANARY}"), format!("DPoP {token}")]);
        }),
        token("header: two, the first is empty", SEVERAL, |s| {
            s.schemes(|token| vec![String::new(), format!("DPoP {token}")]);
        }),
        token("header: two, the first is no token", SEVERAL, |s| {
            s.schemes(|token| vec![format!("DPoP {CANARY}"), format!("DPoP {token}")]);
        }),
        token("header: two of the same", SEVERAL, |s| {
            s.schemes(|token| vec![format!("DPoP {token}"), format!("DPoP {token}")]);
        }),
        token("header: two, the second is no token", SEVERAL, |s| {
            s.schemes(|token| vec![format!("DPoP {token}"), format!("Bearer {CANARY}")]);
        }),
        token("header: two, the first is a stranger's", SEVERAL, |s| {
            s.token.signature = Box::new(|_| vec![7; 64]);
            let good = s.before.clone().unwrap().access_token();
            s.schemes(move |token| vec![format!("DPoP {token}"), format!("DPoP {good}")]);
        }),
    ]);
    cases
}

/// Other requests than the proof is for.
fn targets() -> Vec<Case> {
    let to = |path: &'static str| {
        case(format!("request: to {path}"), Refused::Unserved, move |s| {
            s.path = Box::new(|_| path.to_owned());
        })
    };
    let mut cases: Vec<_> = [
        "/",
        "//kas.AccessService/Rewrap",
        "/kas.AccessService/Rewrap/",
        "/kas.AccessService/Rewrap/x",
        "/kas.AccessService/rewrap",
        "/KAS.AccessService/Rewrap",
        "/kas.AccessService//Rewrap",
        "/kas.AccessService%2FRewrap",
        "/kas.AccessService/Rewrap%00",
        "/kas.AccessService/Rewrap%20",
        "/kas.AccessService/PublicKey/",
        "/kas.AccessService/Unknown",
        "/policy.kasregistry.KeyAccessServerRegistryService/CreateKey",
        // The same URI as the proof's, and another path for all that is exact.
        "/%6bas.AccessService/Rewrap",
        "/x/../kas.AccessService/Rewrap",
        "/./kas.AccessService/Rewrap",
        "/kas.AccessService/PublicKey/../Rewrap",
        "/%2e%2e/kas.AccessService/Rewrap",
    ]
    .into_iter()
    .map(to)
    .collect();
    // And with a proof for just that.
    for path in [
        "/",
        "//kas.AccessService/PublicKey",
        "/kas.AccessService/PublicKey/x",
        "/kas.AccessService/publickey",
        "/grpc.health.v1.Health/Check/",
        "/policy.kasregistry.KeyAccessServerRegistryService/CreateKey",
        "/kasbah.v1.KeyAdminService/GenerateKey",
    ] {
        let name = format!("request: to {path}, with a proof for it");
        cases.push(case(name, Refused::Unserved, move |s| s.to(path)));
    }
    for path in ["/", "/kas.AccessService/PublicKey/"] {
        cases.push(case(format!("request: to {path}, no token"), Refused::Unserved, move |s| {
            s.authorization = Box::new(|_| Vec::new());
            s.to(path);
        }));
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "post", "POSTT"] {
        cases.push(proof(format!("request: by {method}"), METHOD, move |s| s.method = method));
    }
    cases.push(proof("request: the proof is by GET", METHOD, |s| {
        s.proof.claims["htm"] = json!("GET");
    }));
    cases
}
