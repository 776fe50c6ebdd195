use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair,
    },
};
use serde_json::json;

use super::*;

/// The claims of RFC 7515, appendices A.1 to A.3.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                   cGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// RFC 7515, appendix A.2.
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
                     AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
                     BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
                     0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
                     hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
                     p0igcN_IoypGlUPQGe77Rw";
const RS256_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp\
                       -Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOW\
                       vG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUs\
                       LA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k\
                       G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2\
                       PAcDTW9gb54h4FRWyuXpoQ";
/// RFC 7515, appendix A.3.
const ES256: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA\
                     pmWQxfKTUJqPP3-Kg6NU1Q";
/// RFC 7515, appendix A.4.
const ES512: &str = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZq\
                     wqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8Kp\
                     EHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
const ES512_X: &str = "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvL\
                       FV1jSfS9tsz4qUxcWceqwQGk";
const ES512_Y: &str = "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4K\
                       kd0AZMaZmh9ubmf63e3kyMj2";
/// RFC 8037, appendix A.4.
const EDDSA: &str = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5B\
                     hVsPt9g7sVvpAr_MuM0KAg";

fn key(jwk: Value) -> Result<VerifyingKey, JwsError> {
    let Value::Object(jwk) = jwk else { panic!("no object") };
    VerifyingKey::from_jwk(&jwk)
}

fn rsa_jwk() -> Value {
    json!({ "kty": "RSA", "n": RS256_N, "e": "AQAB" })
}

fn p256_jwk() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })
}

fn p521_jwk() -> Value {
    json!({ "kty": "EC", "crv": "P-521", "x": ES512_X, "y": ES512_Y })
}

fn ed25519_jwk() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

fn header(algorithm: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm }).to_string())
}

fn verify(text: &str, key: &VerifyingKey) -> Result<(), JwsError> {
    Jws::parse(text)?.verify(key)
}

/// For published vectors whose payload is no JSON.
fn verify_any_payload(signed: &str, signature: &str, key: &VerifyingKey) -> Result<(), JwsError> {
    let header = part(signed.split_once('.').unwrap().0).unwrap();
    Jws { signed, signature, header, claims: Map::new() }.verify(key)
}

fn es256_vector() -> String {
    format!("eyJhbGciOiJFUzI1NiJ9.{JOE}.{ES256}")
}

/// A fresh key, its JWK and `algorithm`'s signature over a token that says ES256.
fn signed_with(algorithm: &'static EcdsaSigningAlgorithm) -> (VerifyingKey, String, Vec<u8>) {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
    let key = key(json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })).unwrap();
    let signed = format!("{}.{}", header("ES256"), URL_SAFE_NO_PAD.encode("{}"));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    (key, signed, signature.as_ref().to_vec())
}

#[test]
fn published_signatures_verify() {
    let rsa = format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{RS256}");
    assert_eq!(verify(&rsa, &key(rsa_jwk()).unwrap()), Ok(()));
    assert_eq!(verify(&es256_vector(), &key(p256_jwk()).unwrap()), Ok(()));
    let es512 = key(p521_jwk()).unwrap();
    assert_eq!(verify_any_payload("eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA", ES512, &es512), Ok(()));
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    assert_eq!(verify_any_payload(signed, EDDSA, &key(ed25519_jwk()).unwrap()), Ok(()));
}

#[test]
fn a_changed_message_or_signature_does_not_verify() {
    let es512 = key(p521_jwk()).unwrap();
    let wrong = Err(JwsError::Signature);
    assert_eq!(verify_any_payload("eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZQ", ES512, &es512), wrong);
    let ed25519 = key(ed25519_jwk()).unwrap();
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmd";
    assert_eq!(verify_any_payload(signed, EDDSA, &ed25519), wrong);
    let rsa = format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{}", RS256.replace("cC4h", "cC4i"));
    assert_eq!(verify(&rsa, &key(rsa_jwk()).unwrap()), wrong);
    assert_eq!(verify(&es256_vector().replace("DtEh", "DtEi"), &key(p256_jwk()).unwrap()), wrong);
}

#[test]
fn a_key_verifies_with_its_own_algorithms_only() {
    for (jwk, own) in [
        (rsa_jwk(), RSA.to_vec()),
        (p256_jwk(), vec!["ES256"]),
        (p521_jwk(), vec!["ES512"]),
        (ed25519_jwk(), vec!["EdDSA"]),
    ] {
        let key = key(jwk).unwrap();
        assert_eq!(key.algorithms(), own);
        for name in ALGORITHMS.into_iter().chain(["none", "None", "HS256", "ES256K", "rs256", ""]) {
            let expected =
                if own.contains(&name) { JwsError::Signature } else { JwsError::Algorithm };
            let signature = URL_SAFE_NO_PAD.encode([1; 64]);
            let text = format!("{}.{JOE}.{signature}", header(name));
            assert_eq!(verify(&text, &key), Err(expected), "{name}");
        }
    }
}

#[test]
fn an_alg_of_the_key_is_its_only_one() {
    let mut jwk = rsa_jwk();
    jwk["alg"] = json!("PS256");
    assert_eq!(key(jwk.clone()).unwrap().algorithms(), ["PS256"]);
    for alg in [json!("ES256"), json!("HS256"), json!("RSA-OAEP"), json!(7), Value::Null] {
        jwk["alg"] = alg;
        assert_eq!(key(jwk.clone()).err(), Some(JwsError::Key));
    }
}

#[test]
fn unsupported_keys_are_refused() {
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let long = URL_SAFE_NO_PAD.encode([0xff; 1025]);
    let x = p256_jwk()["x"].clone();
    for jwk in [
        json!({}),
        json!({ "kty": "oct", "k": "c2VjcmV0" }),
        with(rsa_jwk(), "n", json!(short)),
        with(rsa_jwk(), "n", json!(long)),
        with(rsa_jwk(), "n", json!(format!("{RS256_N}=="))),
        with(rsa_jwk(), "n", json!(7)),
        // An exponent of 1 makes every message its own signature.
        with(rsa_jwk(), "e", json!("AQ")),
        with(rsa_jwk(), "e", json!("AAEAAA")),
        with(p256_jwk(), "crv", json!("P-384")),
        with(p256_jwk(), "crv", json!("P-521")),
        with(p256_jwk(), "crv", json!("secp256k1")),
        with(p256_jwk(), "kty", json!("OKP")),
        with(p256_jwk(), "kty", json!("ec")),
        // Not on the curve.
        with(p256_jwk(), "y", x),
        with(p521_jwk(), "y", json!(ES512_X)),
        with(ed25519_jwk(), "crv", json!("Ed448")),
        with(ed25519_jwk(), "crv", json!("X25519")),
        with(ed25519_jwk(), "x", json!("AAAA")),
    ] {
        assert_eq!(key(jwk.clone()).err(), Some(JwsError::Key), "{jwk}");
    }
}

/// A byte moved from one coordinate to the other leaves the point, but not the thumbprint.
#[test]
fn coordinates_have_the_length_of_the_field() {
    let mut jwk = p256_jwk();
    let decode = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
    let point = [decode(&jwk["x"]), decode(&jwk["y"])].concat();
    jwk["x"] = json!(URL_SAFE_NO_PAD.encode(&point[..31]));
    jwk["y"] = json!(URL_SAFE_NO_PAD.encode(&point[31..]));
    assert_eq!(key(jwk).err(), Some(JwsError::Key));
}

/// The thumbprint of an RSA key covers `n` and `e`: a point beside them must not be what verifies.
#[test]
fn a_key_is_of_one_type() {
    let mut jwk = p521_jwk();
    jwk["kty"] = json!("RSA");
    assert_eq!(key(jwk.clone()).err(), Some(JwsError::Key));
    jwk["n"] = json!(RS256_N);
    jwk["e"] = json!("AQAB");
    let key = key(jwk).unwrap();
    assert!(matches!(key.key, Key::Jose(_)));
    let rsa = format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{RS256}");
    assert_eq!(verify(&rsa, &key), Ok(()));
}

#[test]
fn ecdsa_signatures_are_two_numbers_of_fixed_length() {
    let encode = |signature: &[u8]| URL_SAFE_NO_PAD.encode(signature);
    let (key, signed, good) = signed_with(&ECDSA_P256_SHA256_FIXED_SIGNING);
    assert_eq!(verify(&format!("{signed}.{}", encode(&good)), &key), Ok(()));
    for bad in [vec![0; 64], vec![], good[..63].to_vec(), [good.as_slice(), &[0]].concat()] {
        assert_eq!(verify(&format!("{signed}.{}", encode(&bad)), &key), Err(JwsError::Signature));
    }
    let (key, signed, der) = signed_with(&ECDSA_P256_SHA256_ASN1_SIGNING);
    assert_eq!(verify(&format!("{signed}.{}", encode(&der)), &key), Err(JwsError::Signature));

    let es512 = self::key(p521_jwk()).unwrap();
    for bad in [vec![0; 132], vec![], vec![0; 131]] {
        let signed = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA";
        let outcome = verify_any_payload(signed, &encode(&bad), &es512);
        assert_eq!(outcome, Err(JwsError::Signature));
    }
}

#[test]
fn base64url_has_one_spelling() {
    let key = key(p256_jwk()).unwrap();
    let good = es256_vector();
    assert_eq!(verify(&good, &key), Ok(()));
    // Padding, bits after the last byte, other alphabet, white space.
    for signature in [
        format!("{ES256}=="),
        ES256.replace("U1Q", "U1R"),
        ES256.replace("-Xx-", "+Xx+"),
        format!("{ES256}\n"),
        format!(" {ES256}"),
        format!("{ES256}A"),
        format!("{ES256}AA"),
    ] {
        let text = good.replace(ES256, &signature);
        assert_eq!(verify(&text, &key), Err(JwsError::Signature), "{signature}");
    }
    for text in [
        good.replace("eyJhbGciOiJFUzI1NiJ9", "eyJhbGciOiJFUzI1NiJ9="),
        good.replace("eyJhbGciOiJFUzI1NiJ9", " eyJhbGciOiJFUzI1NiJ9"),
        good.replace("dHJ1ZX0", "dHJ1ZX1").replace("p0cnVlfQ", "p0cnVlfR"),
    ] {
        assert_eq!(verify(&text, &key), Err(JwsError::Form), "{text}");
    }
}

#[test]
fn other_forms_are_refused() {
    let good = es256_vector();
    let array = URL_SAFE_NO_PAD.encode("[]");
    let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","alg":"ES256"}"#);
    let latin = URL_SAFE_NO_PAD.encode(b"{\"a\":\"\xe9\"}");
    for text in [
        "",
        ".",
        "..",
        &good.replace('.', ""),
        &good.replacen('.', "", 1),
        &format!("{good}."),
        &format!("{good}.{ES256}"),
        &format!("{good}.{ES256}.{ES256}"),
        &format!(".{good}"),
        &good.replace("eyJhbGciOiJFUzI1NiJ9", &array),
        &good.replace("eyJhbGciOiJFUzI1NiJ9", &twice),
        &good.replace(JOE, &array),
        &good.replace(JOE, &latin),
    ] {
        assert_eq!(Jws::parse(text).err(), Some(JwsError::Form), "{text}");
    }
}

#[test]
fn critical_extensions_are_refused() {
    for crit in [json!(["b64"]), json!([]), Value::Null] {
        let header = json!({ "alg": "ES256", "b64": false, "crit": crit }).to_string();
        let text = format!("{}.{JOE}.{ES256}", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(Jws::parse(&text).err(), Some(JwsError::Critical));
    }
}

#[test]
fn keys_are_read_from_pem() {
    let pem = |jwk: Value| {
        let decode = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        match jwk["crv"].as_str() {
            None => {
                let key = RsaPublicKey::from_components(&decode("n"), &decode("e")).unwrap();
                PublicKey::Rsa(key).to_pem()
            }
            Some(crv) => {
                let curve = if crv == "P-256" { Curve::P256 } else { Curve::P521 };
                let point = [vec![4], decode("x"), decode("y")].concat();
                PublicKey::Ec(EcPublicKey::from_sec1(curve, &point).unwrap()).to_pem()
            }
        }
    };
    let rsa = VerifyingKey::from_pem(&pem(rsa_jwk())).unwrap();
    assert_eq!(verify(&format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{RS256}"), &rsa), Ok(()));
    let p256 = VerifyingKey::from_pem(&pem(p256_jwk())).unwrap();
    assert_eq!(verify(&es256_vector(), &p256), Ok(()));
    let p521 = VerifyingKey::from_pem(&pem(p521_jwk())).unwrap();
    assert_eq!(verify_any_payload("eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA", ES512, &p521), Ok(()));

    // RFC 8410, section 10.1; the second is the same for X25519.
    let edwards = "-----BEGIN PUBLIC KEY-----\n\
                   MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                   -----END PUBLIC KEY-----\n";
    assert_eq!(VerifyingKey::from_pem(edwards).unwrap().algorithms(), ["EdDSA"]);
    let exchange = edwards.replace("MCowBQYDK2Vw", "MCowBQYDK2Vu");
    assert_eq!(VerifyingKey::from_pem(&exchange).err(), Some(JwsError::Key));
    assert_eq!(VerifyingKey::from_pem("").err(), Some(JwsError::Key));
}
