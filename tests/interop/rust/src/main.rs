//! The `opentdf` crate against a running Kasbah.
//!
//! ```text
//! kasbah-interop encrypt URL CREDENTIALS TDF                     < plaintext
//! kasbah-interop decrypt URL CREDENTIALS TDF connect|rest|bound  > plaintext
//! ```

use std::{
    env, fs,
    io::{self, Read, Write},
};

use opentdf::{
    CallerKey, KasClient, Policy, Tdf, TdfArchiveMemoryBuilder, fetch_kas_public_key_connect,
    kas_discovery::OpentdfConfiguration,
    manifest::{IntegrityInformationExt, KeyAccessExt, Segment, TdfManifest, TdfManifestExt},
    wrap_key_with_rsa_oaep,
};
use opentdf_crypto::TdfEncryption;
use reqwest::Client;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["encrypt", url, _, tdf] => encrypt(url, tdf).await,
        ["decrypt", url, credentials, tdf, how] => decrypt(url, credentials, tdf, how).await,
        _ => Err("usage: see the first lines of main.rs".into()),
    }
}

/// What `Tdf::encrypt` does not: it wraps no key. After the crate's own example `xtest_cli`.
async fn encrypt(url: &str, tdf: &str) -> Result<()> {
    let mut plaintext = Vec::new();
    io::stdin().read_to_end(&mut plaintext)?;
    let key_url = format!("{url}/kas.AccessService/PublicKey");
    let kas_key = fetch_kas_public_key_connect(&key_url, &Client::new()).await?;
    let encryption = TdfEncryption::new()?;
    let segmented = encryption.encrypt_with_segments(&plaintext, 1 << 20)?;

    let mut manifest = TdfManifest::new("0.payload".to_owned(), format!("{url}/kas"));
    let policy = Policy::new("00000000-0000-0000-0000-000000000000".to_owned(), vec![], vec![]);
    manifest.set_policy(&policy)?;
    let information = &mut manifest.encryption_information;
    information.method.algorithm = "AES-256-GCM".to_owned();
    information.method.iv = String::new();
    let access = &mut information.key_access[0];
    access.generate_policy_binding_raw(&policy.to_json()?, encryption.payload_key())?;
    access.wrapped_key = wrap_key_with_rsa_oaep(encryption.payload_key(), &kas_key.public_key)?;
    access.kid = Some(kas_key.kid);
    let integrity = &mut information.integrity_information;
    integrity.segments.extend(segmented.segment_info.iter().map(|segment| Segment {
        hash: segment.hash.clone(),
        segment_size: Some(segment.plaintext_size),
        encrypted_segment_size: Some(segment.encrypted_size),
    }));
    if let Some(first) = segmented.segment_info.first() {
        integrity.segment_size_default = first.plaintext_size;
        integrity.encrypted_segment_size_default = first.encrypted_size;
    }
    integrity.generate_root_signature(&segmented.gmac_tags, encryption.payload_key())?;

    let mut archive = TdfArchiveMemoryBuilder::new();
    archive.add_entry_with_segments(&manifest, &segmented.segments, 0)?;
    Ok(fs::write(tdf, archive.finish()?)?)
}

async fn decrypt(url: &str, credentials: &str, tdf: &str, how: &str) -> Result<()> {
    let (configuration, key) = match how {
        "connect" => (OpentdfConfiguration::for_kas_connect(url), None),
        "rest" => (OpentdfConfiguration::for_kas_legacy_rest(url), None),
        "bound" => (OpentdfConfiguration::for_kas_connect(url), Some(caller_key()?)),
        _ => return Err(format!("no way to decrypt: {how}").into()),
    };
    let token = access_token(url, credentials, key.as_ref()).await?;
    let mut client = KasClient::new(&configuration, token)?;
    if let Some(key) = key {
        client = client.with_caller_key(key);
    }
    let plaintext = Tdf::decrypt(fs::read(tdf)?).kas_client(client).to_bytes().await?;
    Ok(io::stdout().write_all(&plaintext)?)
}

/// A fresh key: one that a token is bound to.
fn caller_key() -> Result<CallerKey> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(CallerKey::P256(opentdf::p256::ecdsa::SigningKey::from_slice(&seed)?))
}

/// Asks the issuer that the server names, which the crate leaves to others.
async fn access_token(url: &str, credentials: &str, key: Option<&CallerKey>) -> Result<String> {
    let known: Value = Client::new()
        .get(format!("{url}/.well-known/opentdf-configuration"))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let endpoint = known["idp"]["token_endpoint"].as_str().ok_or("no token endpoint")?;
    let credentials: Value = serde_json::from_slice(&fs::read(credentials)?)?;
    let text = |name: &str| credentials[name].as_str().unwrap_or_default();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", text("clientId")),
        ("client_secret", text("clientSecret")),
    ];
    let mut request = Client::new().post(endpoint).form(&form);
    if let Some(key) = key {
        request = request.header("DPoP", key.dpop_proof("POST", endpoint, "")?);
    }
    let answer: Value = request.send().await?.error_for_status()?.json().await?;
    Ok(answer["access_token"].as_str().ok_or("no access token")?.to_owned())
}
