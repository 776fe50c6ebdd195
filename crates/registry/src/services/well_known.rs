//! `wellknownconfiguration.WellKnownService`

use std::collections::BTreeMap;

use kasbah_proto::wellknownconfiguration::{
    GetWellKnownConfigurationRequest, GetWellKnownConfigurationResponse,
    well_known_service_server::WellKnownService,
};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Request, Response, Status, async_trait};

use super::ControlPlane;
use crate::{Key, convert};

#[async_trait]
impl WellKnownService for ControlPlane {
    async fn get_well_known_configuration(
        &self,
        _: Request<GetWellKnownConfigurationRequest>,
    ) -> Result<Response<GetWellKnownConfigurationResponse>, Status> {
        let base = self.registry.base_key().await;
        let base = base.map_err(|error| error.status("resource retrieval failed"))?;
        let base = match base {
            Some(key) if self.may_be_given(&key).await => base_key(key),
            _ => Vec::new(),
        };
        let managers = self.keys.managers().enumerate().map(|(number, name)| {
            let description = text(format!("Key manager: {name}"));
            let about = [("name", text(name.to_owned())), ("description", description)];
            (format!("manager_{number}"), object(about))
        });
        let fields = [
            ("base_key".to_owned(), object(base)),
            ("key_managers".to_owned(), object(managers.collect::<Vec<_>>())),
        ];
        let configuration = Some(Struct { fields: BTreeMap::from(fields) });
        Ok(Response::new(GetWellKnownConfigurationResponse { configuration }))
    }
}

/// `base_key` as SDKs read it.
fn base_key(key: Key) -> Vec<(&'static str, Value)> {
    let algorithm = convert::algorithm(key.algorithm).map_or("", |a| a.as_str());
    let public_key = [
        ("algorithm", text(algorithm.to_owned())),
        ("kid", text(key.kid)),
        ("pem", text(key.public_pem)),
    ];
    vec![
        ("kas_uri", text(key.kas_uri)),
        ("kas_id", text(key.kas_id)),
        ("public_key", object(public_key)),
    ]
}

fn text(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}

fn object<N: Into<String>>(fields: impl IntoIterator<Item = (N, Value)>) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}
