//! `kasbah hsm`: the operator's view of a token.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::anyhow;
use kasbah_pkcs11::{
    module::Module,
    provision::{self, KeyEntry},
    token::{PinSource, Token},
    uri::KeyUri,
};
use kasbah_trust::{Algorithm, PublicKey, SecretSource};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    config::{Config, names},
    environment::Environment,
    exit::{Exit, Failure, OrExit},
    output::{Output, columns, print},
    plan::Plan,
};

/// Make, import and look at keys in a PKCS#11 token
///
/// The token is named by `--module` and `--token`, or by the provider of a configuration. A PIN
/// comes from a file, the environment or a systemd credential, never from the command line, where
/// everybody on the machine could read it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token: label the first blank one and set its PINs
    Init {
        #[command(flatten)]
        token: TokenArguments,
        /// File with the security officer's PIN, which can later reset the user's
        #[arg(long, value_name = "FILE")]
        so_pin_file: PathBuf,
    },
    /// Generate a key pair that never leaves the token
    Generate {
        #[command(flatten)]
        token: TokenArguments,
        /// Name of the key: its label in the token, and the kid that clients see
        #[arg(long)]
        kid: String,
        /// rsa:2048, rsa:4096, ec:secp256r1, ec:secp384r1 or ec:secp521r1
        #[arg(long, value_name = "ALGORITHM")]
        algorithm: Algorithm,
    },
    /// Import a private key from a PEM file (PKCS#8, or PKCS#1 for RSA)
    ///
    /// The token guards it from then on, but every copy of the file remains.
    Import {
        #[command(flatten)]
        token: TokenArguments,
        /// Name of the key: its label in the token, and the kid that clients see
        #[arg(long)]
        kid: String,
        /// The private key
        #[arg(long, value_name = "FILE")]
        private_key_file: PathBuf,
    },
    /// List the keys: whether they are hardened, or which lines of the template they lack
    List {
        #[command(flatten)]
        token: TokenArguments,
    },
    /// Change the user's PIN from the one given to a new one
    ///
    /// A server that runs goes on; put the new PIN where it reads it before it is started again.
    ChangePin {
        #[command(flatten)]
        token: TokenArguments,
        #[command(flatten)]
        new: NewPinArguments,
    },
    /// Print the public half of a key as PEM
    Public {
        #[command(flatten)]
        token: TokenArguments,
        /// Which key, for example `pkcs11:object=r1`
        #[arg(long, value_name = "URI")]
        key: KeyUri,
    },
}

/// Which token, and how to log in to it.
#[derive(Debug, clap::Args)]
struct TokenArguments {
    /// PKCS#11 library
    #[arg(long, value_name = "PATH", requires = "token", required_unless_present = "config")]
    module: Option<PathBuf>,
    /// Configuration with a provider that names module, token and PIN
    #[arg(
        long,
        value_name = "FILE",
        requires = "provider",
        conflicts_with_all = ["module", "token", "pin"],
    )]
    config: Option<PathBuf>,
    /// Name of that provider
    #[arg(long, value_name = "NAME", requires = "config")]
    provider: Option<String>,
    /// Label of the token
    #[arg(long, value_name = "LABEL", requires = "pin")]
    token: Option<String>,
    #[command(flatten)]
    pin: PinArguments,
}

/// Where the user's PIN comes from.
#[derive(Debug, clap::Args)]
#[group(id = "pin", multiple = false)]
struct PinArguments {
    /// File with the user's PIN
    #[arg(long = "pin-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Environment variable with the user's PIN
    #[arg(long = "pin-env", value_name = "VARIABLE")]
    env: Option<String>,
    /// systemd credential with the user's PIN
    #[arg(long = "pin-credential", value_name = "NAME")]
    credential: Option<String>,
}

/// Where the user's next PIN comes from.
#[derive(Debug, clap::Args)]
#[group(id = "new_pin", multiple = false, required = true)]
#[expect(clippy::struct_field_names, reason = "their flags begin with --new-pin")]
struct NewPinArguments {
    /// File with the new PIN
    #[arg(long = "new-pin-file", value_name = "FILE")]
    new_file: Option<PathBuf>,
    /// Environment variable with the new PIN
    #[arg(long = "new-pin-env", value_name = "VARIABLE")]
    new_env: Option<String>,
    /// systemd credential with the new PIN
    #[arg(long = "new-pin-credential", value_name = "NAME")]
    new_credential: Option<String>,
    /// Entry of `secrets` in the configuration with the new PIN
    #[arg(long = "new-pin-secret", value_name = "NAME", requires = "config")]
    new_secret: Option<String>,
}

/// A token that was named one way or the other.
struct Place {
    /// What names the library, for messages.
    setting: String,
    module: PathBuf,
    token: String,
    slot: Option<u64>,
    pin: PinSource,
    /// The node's secrets, where there is a configuration.
    secrets: BTreeMap<String, SecretSource>,
}

/// A key as it is printed.
#[derive(Serialize)]
struct Row {
    kid: String,
    algorithm: Option<&'static str>,
    id: String,
    hardened: bool,
    missing: Vec<&'static str>,
    uri: Option<String>,
    public_key: Option<String>,
}

/// Plans the work on the token.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Result<Plan, Failure> {
    let Arguments { command } = arguments;
    let (place, environment) = command.token().place()?;
    Ok(Plan::tool(async move { run(&command, &place, output) }).with_environment(environment))
}

fn run(command: &Command, place: &Place, output: Output) -> Result<(), Failure> {
    match command {
        Command::Init { so_pin_file, .. } => init(place, so_pin_file, output),
        Command::Generate { kid, algorithm, .. } => {
            let key = provision::generate(&*place.open()?, kid, *algorithm)?;
            output.print(&Row::from(&key), |key| made("generated", key))
        }
        Command::Import { kid, private_key_file, .. } => {
            let pem = Zeroizing::new(fs::read_to_string(private_key_file).map_err(|error| {
                let file = private_key_file.display();
                Failure::new(Exit::Usage, anyhow!(error).context(format!("cannot read {file}")))
            })?);
            let key = provision::import(&*place.open()?, kid, &pem)?;
            output.print(&Row::from(&key), |key| made("imported", key))
        }
        Command::List { .. } => {
            let rows: Vec<_> = provision::list(&*place.open()?)?.iter().map(Row::from).collect();
            output.print(&rows, |rows| table(rows))
        }
        Command::ChangePin { new, .. } => change_pin(place, new, output),
        Command::Public { key, .. } => {
            let public_key = provision::public(&*place.open()?, key)?;
            public(&public_key, key, output)
        }
    }
}

fn init(place: &Place, so_pin_file: &std::path::Path, output: Output) -> Result<(), Failure> {
    let so_pin = SecretSource::File(so_pin_file.into()).read().or_exit(Exit::Usage)?;
    let pin = place.pin.source.read().or_exit(Exit::Usage)?;
    let module = Module::load(&place.setting, &place.module)?;
    provision::init_token(&module, &place.token, &so_pin, &pin)?;
    output.print(&json!({ "token": place.token }), |_| {
        format!("made token {}; put a key in it with `kasbah hsm generate`", place.token)
    })
}

fn change_pin(place: &Place, new: &NewPinArguments, output: Output) -> Result<(), Failure> {
    let new = new.source(&place.secrets)?.read().or_exit(Exit::Usage)?;
    provision::change_pin(&*place.open()?, &new)?;
    output.print(&json!({ "token": place.token }), |_| {
        format!(
            "changed the PIN of token {}; now put the new one where the old one was ({}): the old \
             one is refused from here on, and a token locks after a few attempts",
            place.token, place.pin.source
        )
    })
}

fn public(key: &PublicKey, uri: &KeyUri, output: Output) -> Result<(), Failure> {
    match output {
        Output::Table => print(&key.to_pem()),
        Output::Json => print(
            &json!({
                "uri": uri.to_string(),
                "algorithm": key.algorithm().map(Algorithm::as_str),
                "fingerprint": hex::encode(key.fingerprint()),
                "public_key": key.to_pem(),
            })
            .to_string(),
        ),
    }
}

impl Command {
    fn token(&self) -> &TokenArguments {
        match self {
            Self::Init { token, .. }
            | Self::Generate { token, .. }
            | Self::Import { token, .. }
            | Self::List { token }
            | Self::ChangePin { token, .. }
            | Self::Public { token, .. } => token,
        }
    }
}

impl TokenArguments {
    fn place(&self) -> Result<(Place, Environment), Failure> {
        if let (Some(file), Some(provider)) = (&self.config, &self.provider) {
            return of_provider(file, provider);
        }
        match (&self.module, &self.token, self.pin.source()) {
            (Some(module), Some(token), Some(source)) => {
                let pin = PinSource { name: "of the command line".into(), source };
                let place = Place {
                    setting: "--module".into(),
                    module: module.clone(),
                    token: token.clone(),
                    slot: None,
                    pin,
                    secrets: BTreeMap::new(),
                };
                Ok((place, Environment::default()))
            }
            _ => Err(Failure::usage(
                "name a token with --module, --token and --pin-file (or --pin-env, \
                 --pin-credential), or with --config and --provider",
            )),
        }
    }
}

fn of_provider(file: &std::path::Path, provider: &str) -> Result<(Place, Environment), Failure> {
    let config = Config::load(file).or_exit(Exit::Usage)?;
    let Some(settings) = config.token_of(provider) else {
        return Err(Failure::usage(format!(
            "--provider: {} has no provider `{provider}` of {}; there are {}",
            file.display(),
            kasbah_pkcs11::MANAGER,
            names(config.providers.iter().map(|provider| &provider.config.name))
        )));
    };
    let place = Place {
        setting: format!("modules.{}.path", settings.module_name),
        module: settings.module.clone(),
        token: settings.token.clone(),
        slot: settings.slot,
        pin: PinSource { name: settings.pin_name.clone(), source: settings.pin.clone() },
        secrets: config.secrets,
    };
    Ok((place, config.environment))
}

impl PinArguments {
    fn source(&self) -> Option<SecretSource> {
        let file = self.file.clone().map(SecretSource::File);
        let env = || self.env.clone().map(SecretSource::Env);
        let credential = || self.credential.clone().map(SecretSource::Credential);
        file.or_else(env).or_else(credential)
    }
}

impl NewPinArguments {
    fn source(&self, secrets: &BTreeMap<String, SecretSource>) -> Result<SecretSource, Failure> {
        if let Some(name) = &self.new_secret {
            return secrets.get(name).cloned().ok_or_else(|| {
                let known = names(secrets.keys());
                Failure::usage(format!("--new-pin-secret: no secret `{name}`; there are {known}"))
            });
        }
        let file = self.new_file.clone().map(SecretSource::File);
        let env = || self.new_env.clone().map(SecretSource::Env);
        let credential = || self.new_credential.clone().map(SecretSource::Credential);
        file.or_else(env).or_else(credential).ok_or_else(|| Failure::usage("name the new PIN"))
    }
}

impl Place {
    fn open(&self) -> Result<Arc<Token>, Failure> {
        let module = Module::load(&self.setting, &self.module)?;
        Ok(Token::open(&module, &self.token, self.slot, self.pin.clone())?)
    }
}

impl From<&KeyEntry> for Row {
    fn from(key: &KeyEntry) -> Self {
        Self {
            kid: key.label.clone(),
            algorithm: key.algorithm.map(Algorithm::as_str),
            id: hex::encode(&key.id),
            hardened: key.gaps.is_empty(),
            missing: key.gaps.clone(),
            uri: key.uri().map(|uri| uri.to_string()),
            public_key: key.public_key.as_ref().map(PublicKey::to_pem),
        }
    }
}

fn made(how: &str, key: &Row) -> String {
    let algorithm = key.algorithm.unwrap_or("unknown algorithm");
    let (kid, id, protection) = (&key.kid, &key.id, protection(key));
    let uri = key.uri.as_deref().unwrap_or_default();
    format!(
        "{how} {kid} ({algorithm}, id {id}, {protection})\n\
         for the keyring: {{ kid: {kid}, algorithm: \"{algorithm}\", provider: NAME, \
         key: \"{uri}\" }}"
    )
}

fn protection(key: &Row) -> String {
    if key.hardened { "hardened".into() } else { format!("lacks {}", key.missing.join(", ")) }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "the token has no private keys; make one with `kasbah hsm generate`".into();
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|key| {
            let algorithm = key.algorithm.unwrap_or("unusable");
            [key.kid.clone(), algorithm.to_owned(), key.id.clone(), protection(key)]
        })
        .collect();
    columns(["KID", "ALGORITHM", "ID", "PROTECTION"], &rows)
}
