//! Calls run to their end, whether or not their client still waits: a change that is under way when
//! its client goes away would else be made, but not audited.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::codegen::Service;
use tower_layer::Layer;

/// Runs every call in a task of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish;

/// Services whose calls run to their end.
#[derive(Debug, Clone)]
pub(super) struct Finishing<S>(S);

impl<S> Layer<S> for Finish {
    type Service = Finishing<S>;

    fn layer(&self, inner: S) -> Finishing<S> {
        Finishing(inner)
    }
}

impl<S, R> Service<R> for Finishing<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let call = tokio::spawn(self.0.call(request));
        Box::pin(async move {
            match call.await.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(answer) => answer,
                Err(Ok(panic)) => resume_unwind(panic),
                // Only when the runtime ends, and with it whoever would read an answer.
                Err(Err(_)) => std::future::pending().await,
            }
        })
    }
}
