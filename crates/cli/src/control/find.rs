//! What people name, found in a registry.

use std::{convert::Infallible, str::FromStr};

use kasbah_proto::policy::{
    KasKey, KeyAccessServer, KeyProviderConfig, PageRequest,
    kasregistry::{
        GetKeyAccessServerRequest, GetKeyRequest, KasKeyIdentifier, ListKeyAccessServersRequest,
        ListKeyMappingsRequest, get_key_access_server_request, get_key_request, kas_key_identifier,
        list_key_mappings_request,
    },
    keymanagement::{
        GetProviderConfigRequest,
        get_provider_config_request::{Identifier, NameManager},
    },
};
use uuid::Uuid;

use crate::{
    control::{
        refused::{OrRefused, present},
        server::Server,
    },
    exit::Failure,
};

/// A key access server, by any of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KasName {
    Id(Uuid),
    Name(String),
    Uri(String),
}

/// Which key.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyArguments {
    /// Row id of the key
    #[arg(long, short, value_name = "UUID", conflicts_with_all = ["kid", "kas"])]
    id: Option<Uuid>,
    /// Name of the key inside its key access server
    #[arg(long, alias = "key")]
    kid: Option<String>,
    /// Its key access server; not needed while there is only one
    #[arg(long, value_name = "UUID|URI|NAME", requires = "kid")]
    kas: Option<KasName>,
}

/// A key, as far as its names are known without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyName {
    Id(Uuid),
    Kid { kas: Option<KasName>, kid: String },
}

/// A provider configuration, by its row id or by both of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProviderName {
    Id(Uuid),
    Named { name: String, manager: String },
}

impl KasName {
    /// How to ask for it.
    pub(crate) fn request(&self) -> GetKeyAccessServerRequest {
        use get_key_access_server_request::Identifier;
        let identifier = match self {
            Self::Id(id) => Identifier::KasId(id.to_string()),
            Self::Name(name) => Identifier::Name(name.clone()),
            Self::Uri(uri) => Identifier::Uri(uri.clone()),
        };
        GetKeyAccessServerRequest { identifier: Some(identifier), ..Default::default() }
    }

    fn of_key(&self) -> kas_key_identifier::Identifier {
        use kas_key_identifier::Identifier;
        match self {
            Self::Id(id) => Identifier::KasId(id.to_string()),
            Self::Name(name) => Identifier::Name(name.clone()),
            Self::Uri(uri) => Identifier::Uri(uri.clone()),
        }
    }
}

impl FromStr for KasName {
    type Err = Infallible;

    /// A UUID in its usual form is an id, what has a scheme a URI, and everything else a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match Uuid::try_parse(text) {
            Ok(id) if text.len() == uuid::fmt::Hyphenated::LENGTH => Self::Id(id),
            _ if text.contains("://") => Self::Uri(text.into()),
            _ => Self::Name(text.into()),
        })
    }
}

impl KeyArguments {
    fn name(&self) -> Option<KeyName> {
        match (self.id, &self.kid) {
            (Some(id), _) => Some(KeyName::Id(id)),
            (None, Some(kid)) => Some(KeyName::Kid { kas: self.kas.clone(), kid: kid.clone() }),
            (None, None) => None,
        }
    }

    fn required(&self) -> Result<KeyName, Failure> {
        self.name().ok_or_else(|| Failure::usage("name a key with --id, or with --kid and --kas"))
    }

    /// How to ask for the mappings of this key, or of all keys when none is named.
    pub(crate) async fn mappings(
        &self,
        server: &Server,
    ) -> Result<ListKeyMappingsRequest, Failure> {
        use list_key_mappings_request::Identifier;
        let identifier = match self.name() {
            None => None,
            Some(KeyName::Id(id)) => Some(Identifier::Id(id.to_string())),
            Some(KeyName::Kid { kas, kid }) => {
                Some(Identifier::Key(server.key_identifier(kas.as_ref(), kid).await?))
            }
        };
        Ok(ListKeyMappingsRequest { identifier, ..Default::default() })
    }
}

impl ProviderName {
    /// How to ask for it.
    pub(crate) fn request(&self) -> GetProviderConfigRequest {
        let identifier = match self.clone() {
            Self::Id(id) => Identifier::Id(id.to_string()),
            Self::Named { name, manager } => Identifier::NameManager(NameManager { name, manager }),
        };
        GetProviderConfigRequest { identifier: Some(identifier), ..Default::default() }
    }
}

impl Server {
    /// The key access server of a name.
    pub(crate) async fn kas(&self, name: &KasName) -> Result<KeyAccessServer, Failure> {
        let answer = self
            .registry()
            .get_key_access_server(name.request())
            .await
            .or_refused("cannot get the key access server")?;
        present(answer.key_access_server, "key access server")
    }

    /// Row id of the key access server of a name; without one, of the only one there is.
    pub(crate) async fn kas_id(&self, name: Option<&KasName>) -> Result<String, Failure> {
        match name {
            Some(KasName::Id(id)) => Ok(id.to_string()),
            Some(name) => Ok(self.kas(name).await?.id),
            None => self.only_kas().await,
        }
    }

    /// Row id of the key access server of a name; empty without one, which the server takes for
    /// the one that it serves itself.
    pub(crate) async fn kas_id_or_own(&self, name: Option<&KasName>) -> Result<String, Failure> {
        match name {
            Some(_) => self.kas_id(name).await,
            None => Ok(String::new()),
        }
    }

    async fn only_kas(&self) -> Result<String, Failure> {
        let pagination = Some(PageRequest { limit: 2, offset: 0 });
        let answer = self
            .registry()
            .list_key_access_servers(ListKeyAccessServersRequest {
                pagination,
                ..Default::default()
            })
            .await
            .or_refused("cannot list key access servers")?;
        only(answer.key_access_servers).map(|kas| kas.id)
    }

    /// The key that is named.
    pub(crate) async fn key(&self, arguments: &KeyArguments) -> Result<KasKey, Failure> {
        let identifier = match arguments.required()? {
            KeyName::Id(id) => get_key_request::Identifier::Id(id.to_string()),
            KeyName::Kid { kas, kid } => {
                get_key_request::Identifier::Key(self.key_identifier(kas.as_ref(), kid).await?)
            }
        };
        let answer = self
            .registry()
            .get_key(GetKeyRequest { identifier: Some(identifier) })
            .await
            .or_refused("cannot get the key")?;
        present(answer.kas_key, "key")
    }

    /// Row id of the key that is named.
    pub(crate) async fn key_id(&self, arguments: &KeyArguments) -> Result<String, Failure> {
        match arguments.required()? {
            KeyName::Id(id) => Ok(id.to_string()),
            KeyName::Kid { .. } => Ok(present(self.key(arguments).await?.key, "key")?.id),
        }
    }

    async fn key_identifier(
        &self,
        kas: Option<&KasName>,
        kid: String,
    ) -> Result<KasKeyIdentifier, Failure> {
        let identifier = match kas {
            Some(kas) => kas.of_key(),
            None => kas_key_identifier::Identifier::KasId(self.only_kas().await?),
        };
        Ok(KasKeyIdentifier { identifier: Some(identifier), kid })
    }

    /// The provider configuration of a name.
    pub(crate) async fn provider(&self, name: &ProviderName) -> Result<KeyProviderConfig, Failure> {
        let answer = self
            .key_management()
            .get_provider_config(name.request())
            .await
            .or_refused("cannot get the provider configuration")?;
        present(answer.provider_config, "provider configuration")
    }

    /// Row id of the provider configuration of a name.
    pub(crate) async fn provider_id(&self, name: &ProviderName) -> Result<String, Failure> {
        match name {
            ProviderName::Id(id) => Ok(id.to_string()),
            ProviderName::Named { .. } => Ok(self.provider(name).await?.id),
        }
    }
}

fn only(found: Vec<KeyAccessServer>) -> Result<KeyAccessServer, Failure> {
    match <[_; 1]>::try_from(found) {
        Ok([kas]) => Ok(kas),
        Err(found) if found.is_empty() => Err(Failure::not_fine(
            "the registry has no key access server; make one with `kasbah kas create`",
        )),
        Err(_) => {
            Err(Failure::usage("the registry has several key access servers; name one with --kas"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6e3c8a1e-9d0b-4a3f-8f0e-0d4b5f6a7c88";

    #[test]
    fn a_key_access_server_goes_by_three_names() {
        let parse = |text: &str| text.parse::<KasName>().unwrap();
        assert_eq!(parse(ID), KasName::Id(ID.parse().unwrap()));
        assert_eq!(parse(&ID.to_uppercase()), KasName::Id(ID.parse().unwrap()));
        assert_eq!(parse("http://kas:8080"), KasName::Uri("http://kas:8080".into()));
        assert_eq!(parse("main"), KasName::Name("main".into()));
        let simple = ID.replace('-', "");
        assert_eq!(parse(&simple), KasName::Name(simple));
    }

    #[test]
    fn an_id_is_asked_for_by_the_member_that_is_not_deprecated() {
        let request = ID.parse::<KasName>().unwrap().request();
        assert_eq!(
            request.identifier,
            Some(get_key_access_server_request::Identifier::KasId(ID.into()))
        );
    }

    #[test]
    fn a_provider_goes_by_both_names() {
        let name = ProviderName::Named { name: "main".into(), manager: "m".into() };
        let expected = NameManager { name: "main".into(), manager: "m".into() };
        assert_eq!(name.request().identifier, Some(Identifier::NameManager(expected)));
    }

    #[test]
    fn a_kas_that_is_not_named_must_be_the_only_one() {
        let kas = |id: &str| KeyAccessServer { id: id.into(), ..Default::default() };
        assert_eq!(only(vec![kas("a")]).unwrap().id, "a");
        let none = format!("{:?}", only(vec![]).unwrap_err());
        assert!(none.contains("kasbah kas create"), "{none}");
        let several = format!("{:?}", only(vec![kas("a"), kas("b")]).unwrap_err());
        assert!(several.contains("Usage") && several.contains("--kas"), "{several}");
    }
}
