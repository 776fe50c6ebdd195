//! The gate in front of a tonic server: a tower layer around all services.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
};
use tower_layer::Layer;

use crate::Gate;

/// Puts a [`Gate`] in front of services. Who was let in is in the extensions of the request, as a
/// [`crate::Caller`].
#[derive(Debug, Clone)]
pub struct GateLayer(Arc<Gate>);

impl GateLayer {
    /// A layer of this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self(gate)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: Arc::clone(&self.0), inner }
    }
}

/// Services behind a gate.
#[derive(Debug, Clone)]
pub struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready goes into the future; the clone is made ready before its use.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let gate = Arc::clone(&self.gate);
        Box::pin(async move { pass(&gate, inner, request).await })
    }
}

async fn pass<S>(
    gate: &Gate,
    mut inner: S,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (mut parts, body) = request.into_parts();
    let header = match gate.let_in(&mut parts, None).await {
        Ok(header) => header,
        Err(status) => return Ok(status.into_http()),
    };
    let mut response = inner.call(Request::from_parts(parts, body)).await?;
    response.headers_mut().extend(header.map(|(name, value)| (Some(name), value)));
    Ok(response)
}
