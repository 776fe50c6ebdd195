//! A key that is to be registered: made in a device, or given.

use std::{fs, path::Path, path::PathBuf};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::envelope::RootKey;
use kasbah_proto::{
    common::MetadataMutable,
    kasbah::admin::v1::GenerateKeyRequest,
    policy::{
        PrivateKeyCtx, PublicKeyCtx,
        kasregistry::{CreateKeyRequest, rotate_key_request},
    },
};
use kasbah_trust::{Algorithm, PublicKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    control::{
        find::ProviderName,
        labels::LabelArguments,
        words::{Mode, parse_algorithm, wire_algorithm},
    },
    exit::{Exit, Failure, OrExit},
};

/// What a new key is made of.
#[derive(Debug, clap::Args)]
pub(crate) struct NewKeyArguments {
    /// rsa:2048, rsa:4096, ec:secp256r1, ec:secp384r1 or ec:secp521r1
    #[arg(long, short, value_name = "ALGORITHM", value_parser = parse_algorithm)]
    algorithm: Algorithm,
    /// Where the private half lives; `remote` for a key that a device makes
    #[arg(long, short, value_enum, ignore_case = true, value_name = "MODE")]
    mode: Option<Mode>,
    #[command(flatten)]
    provider: ProviderArguments,
    /// What wraps the private half: a root key of the server, or a key in the device; for mode
    /// remote, the key itself in its device, for example `pkcs11:object=r1`
    #[arg(long, visible_alias = "remote-key-id", value_name = "ID")]
    wrapping_key_id: Option<String>,
    /// The private half, wrapped already, in base64
    #[arg(long, value_name = "FILE", conflicts_with = "private_key_file")]
    wrapped_key_file: Option<PathBuf>,
    /// The private half as PEM, to be wrapped here, for mode local: it does not leave this machine
    /// in clear
    #[arg(long, value_name = "FILE", requires = "root_key_file")]
    private_key_file: Option<PathBuf>,
    /// The root key to wrap it with, in hexadecimal; --wrapping-key-id is its name on the server
    #[arg(long, value_name = "FILE", requires = "private_key_file")]
    root_key_file: Option<PathBuf>,
    /// The public half as PEM; without it, the provider's device makes the key
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    #[command(flatten)]
    labels: LabelArguments,
}

/// Which provider configuration.
#[derive(Debug, Default, clap::Args)]
struct ProviderArguments {
    /// Name of the provider configuration
    #[arg(long, value_name = "NAME", requires = "manager", conflicts_with = "provider_config_id")]
    provider: Option<String>,
    /// Its key manager, for example `opentdf.io/hsm`
    #[arg(long, requires = "provider")]
    manager: Option<String>,
    /// Row id of the provider configuration, instead of --provider and --manager
    #[arg(long, short, value_name = "UUID")]
    provider_config_id: Option<Uuid>,
}

/// A key that is to be registered.
#[derive(Debug, PartialEq)]
pub(crate) enum NewKey {
    Generated(GeneratedKey),
    Given(GivenKey),
}

/// A key that a device makes.
#[derive(Debug, PartialEq)]
pub(crate) struct GeneratedKey {
    algorithm: Algorithm,
    mode: Mode,
    pub(crate) provider: ProviderName,
    metadata: Option<MetadataMutable>,
}

/// A key that exists.
#[derive(Debug, PartialEq)]
pub(crate) struct GivenKey {
    algorithm: Algorithm,
    mode: Mode,
    pub(crate) provider: Option<ProviderName>,
    public_key: PublicKeyCtx,
    private_key: Option<PrivateKeyCtx>,
    metadata: Option<MetadataMutable>,
}

/// Which flags a mode needs; it takes no others.
struct Needs {
    wrapping_key_id: bool,
    wrapped_key_file: bool,
    provider: bool,
}

impl NewKeyArguments {
    /// A key that exists when there is a public key, otherwise one that a device makes.
    pub(crate) fn read(&self) -> Result<NewKey, Failure> {
        match (&self.public_key_file, self.mode) {
            (None, _) => self.generated().map(NewKey::Generated),
            (Some(file), Some(mode)) => self.given(file, mode).map(NewKey::Given),
            (Some(_), None) => {
                Err(Failure::usage("--public-key-file needs --mode: where is the private half?"))
            }
        }
    }

    /// A key that exists, with its private half in the registry unless something else is said.
    pub(crate) fn read_import(&self) -> Result<GivenKey, Failure> {
        match &self.public_key_file {
            Some(file) => self.given(file, self.mode.unwrap_or(Mode::Local)),
            None => Err(Failure::usage(
                "an import needs --public-key-file; `kasbah keys create` makes keys in devices",
            )),
        }
    }

    fn generated(&self) -> Result<GeneratedKey, Failure> {
        let mode = self.mode.unwrap_or(Mode::Remote);
        if !matches!(mode, Mode::Provider | Mode::Remote) {
            let mode = mode.word();
            return Err(Failure::usage(format!(
                "mode {mode} needs --public-key-file: the server makes keys in devices only, with \
                 mode remote or provider"
            )));
        }
        let is_given = [&self.wrapped_key_file, &self.private_key_file].iter().any(|f| f.is_some());
        if is_given || self.wrapping_key_id.is_some() {
            return Err(Failure::usage(
                "--wrapping-key-id, --remote-key-id, --wrapped-key-file and --private-key-file are \
                 for a key that exists; give its --public-key-file too",
            ));
        }
        let provider = self.provider.name().ok_or_else(|| {
            Failure::usage("say which device makes the key, with --provider and --manager")
        })?;
        let (algorithm, metadata) = (self.algorithm, self.labels.metadata());
        Ok(GeneratedKey { algorithm, mode, provider, metadata })
    }

    fn given(&self, public_key_file: &Path, mode: Mode) -> Result<GivenKey, Failure> {
        self.check(mode)?;
        Ok(GivenKey {
            algorithm: self.algorithm,
            mode,
            provider: self.provider.name(),
            public_key: public_key(public_key_file, self.algorithm)?,
            private_key: self.private_key()?,
            metadata: self.labels.metadata(),
        })
    }

    fn check(&self, mode: Mode) -> Result<(), Failure> {
        if self.private_key_file.is_some() && mode != Mode::Local {
            return Err(Failure::usage("--private-key-file is for mode local"));
        }
        let needs = Needs::of(mode);
        for (flags, needed, given) in [
            ("--wrapping-key-id", needs.wrapping_key_id, self.wrapping_key_id.is_some()),
            ("--wrapped-key-file", needs.wrapped_key_file, self.has_wrapped_key()),
            ("--provider and --manager", needs.provider, self.provider.name().is_some()),
        ] {
            let flags = match mode {
                Mode::Remote => flags.replace("wrapping-key-id", "remote-key-id"),
                _ => flags.to_owned(),
            };
            let mode = mode.word();
            match (needed, given) {
                (true, false) => return Err(Failure::usage(format!("mode {mode} needs {flags}"))),
                (false, true) => {
                    return Err(Failure::usage(format!("mode {mode} takes no {flags}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn private_key(&self) -> Result<Option<PrivateKeyCtx>, Failure> {
        let Some(key_id) = self.wrapping_key_id.clone() else { return Ok(None) };
        let wrapped_key = match (&self.private_key_file, &self.root_key_file) {
            (Some(private), Some(root)) => Some(wrap(private, root)?),
            _ => self.wrapped_key_file.as_deref().map(wrapped_key).transpose()?,
        };
        Ok(Some(PrivateKeyCtx { key_id, wrapped_key: wrapped_key.unwrap_or_default() }))
    }

    /// Whether there is one, or what it is made of.
    fn has_wrapped_key(&self) -> bool {
        self.wrapped_key_file.is_some() || self.private_key_file.is_some()
    }
}

/// Wraps a private key as the server will open it.
fn wrap(private: &Path, root: &Path) -> Result<String, Failure> {
    let read = |flag: &str, file: &Path| {
        fs::read_to_string(file)
            .map(Zeroizing::new)
            .with_context(|| format!("{flag}: cannot read {}", file.display()))
            .or_exit(Exit::Usage)
    };
    let root = read("--root-key-file", root)?;
    let root = RootKey::from_hex(root.trim()).context("--root-key-file").or_exit(Exit::Usage)?;
    let pem = read("--private-key-file", private)?;
    wrap_private_key(&root, &pem).context("--private-key-file").or_exit(Exit::Usage)
}

impl ProviderArguments {
    fn name(&self) -> Option<ProviderName> {
        match (self.provider_config_id, &self.provider, &self.manager) {
            (Some(id), ..) => Some(ProviderName::Id(id)),
            (None, Some(name), Some(manager)) => {
                Some(ProviderName::Named { name: name.clone(), manager: manager.clone() })
            }
            _ => None,
        }
    }
}

impl Needs {
    fn of(mode: Mode) -> Self {
        let (wrapping_key_id, wrapped_key_file, provider) = match mode {
            Mode::Local => (true, true, false),
            Mode::Provider => (true, true, true),
            Mode::Remote => (true, false, true),
            Mode::PublicKey => (false, false, false),
        };
        Self { wrapping_key_id, wrapped_key_file, provider }
    }
}

impl GeneratedKey {
    /// The request to make it, as a key that replaces no other.
    pub(crate) fn request(
        self,
        key_id: String,
        kas_id: String,
        provider_config_id: String,
    ) -> GenerateKeyRequest {
        GenerateKeyRequest {
            kas_id,
            key_id,
            key_algorithm: wire_algorithm(self.algorithm).into(),
            key_mode: self.mode.wire().into(),
            provider_config_id,
            labels: self.metadata.unwrap_or_default().labels,
            ..Default::default()
        }
    }
}

impl GivenKey {
    /// The request to register it, as a key that replaces no other and is not a legacy one.
    pub(crate) fn request(
        self,
        key_id: String,
        kas_id: String,
        provider_config_id: String,
    ) -> CreateKeyRequest {
        CreateKeyRequest {
            kas_id,
            key_id,
            key_algorithm: wire_algorithm(self.algorithm).into(),
            key_mode: self.mode.wire().into(),
            public_key_ctx: Some(self.public_key),
            private_key_ctx: self.private_key,
            provider_config_id,
            legacy: false,
            metadata: self.metadata,
        }
    }

    /// The part of a rotation that describes the new key.
    pub(crate) fn successor(
        self,
        key_id: String,
        provider_config_id: String,
    ) -> rotate_key_request::NewKey {
        rotate_key_request::NewKey {
            key_id,
            algorithm: wire_algorithm(self.algorithm).into(),
            key_mode: self.mode.wire().into(),
            public_key_ctx: Some(self.public_key),
            private_key_ctx: self.private_key,
            provider_config_id,
            metadata: self.metadata,
        }
    }
}

fn public_key(file: &Path, algorithm: Algorithm) -> Result<PublicKeyCtx, Failure> {
    let key = PublicKey::from_pem(&text(file)?)
        .with_context(|| format!("{}: expected a public key as PEM", file.display()))
        .or_exit(Exit::Usage)?;
    if key.algorithm() != Some(algorithm) {
        let found = key.algorithm().map_or("of another algorithm", Algorithm::as_str);
        return Err(Failure::usage(format!(
            "{}: the public key is {found}, not {algorithm}",
            file.display()
        )));
    }
    Ok(PublicKeyCtx { pem: STANDARD.encode(key.to_pem()) })
}

fn wrapped_key(file: &Path) -> Result<String, Failure> {
    let text: String = text(file)?.split_ascii_whitespace().collect();
    let bytes = STANDARD
        .decode(&text)
        .ok()
        .filter(|bytes| !bytes.is_empty() && !bytes.starts_with(b"-----BEGIN"));
    match bytes {
        Some(_) => Ok(text),
        None => Err(Failure::usage(format!(
            "{}: expected a wrapped private key in base64; nothing was sent",
            file.display()
        ))),
    }
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file)
        .with_context(|| format!("cannot read {}", file.display()))
        .or_exit(Exit::Usage)
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use kasbah_crypto::PrivateKey;
    use kasbah_proto::policy;
    use kasbah_trust::Curve;
    use tempfile::TempDir;

    use super::*;

    const PROVIDER: [&str; 4] = ["--provider", "main", "--manager", "opentdf.io/hsm"];

    /// A directory with the files that arguments of these tests name.
    struct Files {
        directory: TempDir,
        pem: String,
    }

    impl Files {
        fn new() -> Self {
            let key = PrivateKey::generate(Algorithm::Ec(Curve::P256)).unwrap();
            let files =
                Self { directory: tempfile::tempdir().unwrap(), pem: key.public_key().to_pem() };
            files.write("public", &files.pem);
            files.write("wrapped", &format!("{}\n", STANDARD.encode([7; 40])));
            files
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }

        /// Arguments for a P-256 key, with `@name` for a file of this name.
        fn parse(&self, arguments: &[&str]) -> NewKeyArguments {
            let arguments = ["keys", "--algorithm", "ec:secp256r1"].iter().chain(arguments);
            let arguments = arguments.map(|argument| match argument.strip_prefix('@') {
                Some(name) => self.directory.path().join(name).into_os_string(),
                None => argument.into(),
            });
            let command = NewKeyArguments::augment_args(clap::Command::new("keys"));
            let matches = command.try_get_matches_from(arguments).unwrap();
            NewKeyArguments::from_arg_matches(&matches).unwrap()
        }

        fn given(&self, arguments: &[&str]) -> GivenKey {
            let file = ["--public-key-file", "@public"];
            match self.parse(&[&file, arguments].concat()).read() {
                Ok(NewKey::Given(key)) => key,
                other => panic!("{other:?}"),
            }
        }

        fn refused(&self, arguments: &[&str]) -> String {
            let failure = self.parse(arguments).read().unwrap_err();
            let failure = format!("{failure:?}");
            assert!(failure.contains("exit: Usage"), "{arguments:?}: {failure}");
            failure
        }
    }

    #[test]
    fn a_device_makes_a_key_that_is_not_given() {
        let labels = ["--label", "team=blue"];
        let arguments = Files::new().parse(&[&PROVIDER[..], &labels].concat());
        let Ok(NewKey::Generated(key)) = arguments.read() else { panic!("{arguments:?}") };
        let named = ProviderName::Named { name: "main".into(), manager: "opentdf.io/hsm".into() };
        assert_eq!(key.provider, named);
        let request = key.request("k1".into(), "kas".into(), "provider".into());
        let expected = GenerateKeyRequest {
            kas_id: "kas".into(),
            key_id: "k1".into(),
            key_algorithm: policy::Algorithm::EcP256.into(),
            key_mode: policy::KeyMode::Remote.into(),
            provider_config_id: "provider".into(),
            legacy: false,
            labels: [("team".into(), "blue".into())].into(),
            rotates: String::new(),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn a_public_key_is_sent_as_base64_of_its_pem() {
        let files = Files::new();
        let request = files.given(&["--mode", "PUBLIC_KEY"]).request(
            "k1".into(),
            "kas".into(),
            String::new(),
        );
        assert_eq!(request.public_key_ctx.unwrap().pem, STANDARD.encode(&files.pem));
        assert_eq!(request.private_key_ctx, None);
        assert_eq!(request.key_mode, i32::from(policy::KeyMode::PublicKeyOnly));
    }

    #[test]
    fn a_wrapped_key_goes_with_the_name_of_what_wraps_it() {
        let wrapped = ["--wrapping-key-id", "root1", "--wrapped-key-file", "@wrapped"];
        let expected =
            PrivateKeyCtx { key_id: "root1".into(), wrapped_key: STANDARD.encode([7; 40]) };
        let files = Files::new();
        let local = files.given(&[&["--mode", "local"], &wrapped[..]].concat());
        assert_eq!(local.provider, None);
        let successor = local.successor("k2".into(), String::new());
        assert_eq!(successor.private_key_ctx, Some(expected.clone()));
        let provider = files.given(&[&["--mode", "provider"], &wrapped[..], &PROVIDER].concat());
        assert_eq!(provider.private_key, Some(expected));
    }

    #[test]
    fn a_remote_key_goes_by_its_name_in_the_device() {
        let arguments = ["--mode", "remote", "--remote-key-id", "pkcs11:object=r1"];
        let key = Files::new().given(&[&arguments, &PROVIDER[..]].concat());
        let expected =
            PrivateKeyCtx { key_id: "pkcs11:object=r1".into(), wrapped_key: String::new() };
        assert_eq!(key.private_key, Some(expected));
    }

    #[test]
    fn an_import_is_local_unless_something_else_is_said() {
        let files = Files::new();
        let wrapped = ["--wrapping-key-id", "root1", "--wrapped-key-file", "@wrapped"];
        let public = ["--public-key-file", "@public"];
        let key = files.parse(&[&wrapped[..], &public].concat()).read_import().unwrap();
        assert_eq!(key.mode, Mode::Local);
        let key = files.parse(&[&["--mode", "public_key"], &public[..]].concat());
        assert_eq!(key.read_import().unwrap().mode, Mode::PublicKey);
        let failure = files.parse(&PROVIDER).read_import().unwrap_err();
        assert!(format!("{failure:?}").contains("--public-key-file"), "{failure:?}");
    }

    #[test]
    fn what_does_not_fit_the_mode_is_refused() {
        let files = Files::new();
        let public = ["--public-key-file", "@public"];
        let wrapping = ["--wrapping-key-id", "root1"];
        let wrapped = ["--wrapped-key-file", "@wrapped"];
        for (arguments, reason) in [
            (vec![], "which device"),
            (vec!["--mode", "local"], "needs --public-key-file"),
            (vec!["--mode", "public_key"], "needs --public-key-file"),
            ([&PROVIDER[..], &wrapping].concat(), "for a key that exists"),
            ([&PROVIDER[..], &wrapped].concat(), "for a key that exists"),
            (public.to_vec(), "needs --mode"),
            ([&["--mode", "local"], &public[..], &wrapped].concat(), "needs --wrapping-key-id"),
            ([&["--mode", "local"], &public[..], &wrapping].concat(), "needs --wrapped-key-file"),
            (
                [&["--mode", "local"], &public[..], &wrapping, &wrapped, &PROVIDER].concat(),
                "takes no --provider",
            ),
            (
                [&["--mode", "provider"], &public[..], &wrapping, &wrapped].concat(),
                "needs --provider",
            ),
            ([&["--mode", "remote"], &public[..], &PROVIDER].concat(), "needs --remote-key-id"),
            ([&["--mode", "remote"], &public[..], &wrapping].concat(), "needs --provider"),
            (
                [&["--mode", "remote"], &public[..], &wrapping, &wrapped, &PROVIDER].concat(),
                "takes no --wrapped-key-file",
            ),
            (
                [&["--mode", "public_key"], &public[..], &wrapping].concat(),
                "takes no --wrapping-key-id",
            ),
            ([&["--mode", "public_key"], &public[..], &PROVIDER].concat(), "takes no --provider"),
        ] {
            let failure = files.refused(&arguments);
            assert!(failure.contains(reason), "{arguments:?}: {failure}");
        }
    }

    #[test]
    fn files_hold_what_they_should() {
        let files = Files::new();
        let rsa = PrivateKey::generate(Algorithm::Rsa2048).unwrap();
        let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        files.write("rsa", &rsa.public_key().to_pem());
        files.write("private", private);
        files.write("private64", &STANDARD.encode(private));
        files.write("empty", "");
        for (name, reason) in [
            ("@rsa", "is rsa:2048, not ec:secp256r1"),
            ("@private", "expected a public key as PEM"),
            ("@empty", "expected a public key as PEM"),
            ("@none", "cannot read"),
        ] {
            let failure = files.refused(&["--mode", "public_key", "--public-key-file", name]);
            assert!(failure.contains(reason), "{name}: {failure}");
        }
        for (name, reason) in [
            ("@private", "expected a wrapped private key"),
            ("@private64", "expected a wrapped private key"),
            ("@empty", "expected a wrapped private key"),
            ("@none", "cannot read"),
        ] {
            let local = ["--mode", "local", "--public-key-file", "@public"];
            let wrapped = ["--wrapping-key-id", "root1", "--wrapped-key-file", name];
            let failure = files.refused(&[local, wrapped].concat());
            assert!(failure.contains(reason), "{name}: {failure}");
        }
    }
}
