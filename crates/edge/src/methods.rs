//! The methods that are served, from their descriptors.

use std::collections::HashMap;

use connectrpc::dispatcher::MethodDescriptor;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor as Reflected};

/// One method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    pub(crate) is_unary: bool,
    /// What the protocol runtime has to know.
    pub(crate) runtime: MethodDescriptor,
}

/// Methods by `package.Service/Method`.
pub(crate) type Methods = HashMap<String, Method>;

/// The methods of the services with these names. A name without a descriptor has none.
pub(crate) fn methods(pool: &DescriptorPool, services: &[&str]) -> Methods {
    let known = services.iter().filter_map(|name| pool.get_service_by_name(name));
    known
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            let methods: Vec<_> = service.methods().collect();
            methods
                .into_iter()
                .map(move |method| (format!("{name}/{}", method.name()), self::method(&method)))
        })
        .collect()
}

fn method(method: &Reflected) -> Method {
    let runtime = match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => MethodDescriptor::unary(has_no_side_effects(method)),
        (false, true) => MethodDescriptor::server_streaming(),
        (true, false) => MethodDescriptor::client_streaming(),
        (true, true) => MethodDescriptor::bidi_streaming(),
    };
    Method {
        input: method.input(),
        output: method.output(),
        is_unary: !method.is_client_streaming() && !method.is_server_streaming(),
        runtime,
    }
}

/// `option idempotency_level = NO_SIDE_EFFECTS`, `google.protobuf.MethodOptions`.
fn has_no_side_effects(method: &Reflected) -> bool {
    const NO_SIDE_EFFECTS: i32 = 1;
    let options = method.options();
    let level = options.get_field_by_name("idempotency_level");
    level.and_then(|level| level.as_enum_number()) == Some(NO_SIDE_EFFECTS)
}
