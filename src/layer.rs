//! The Tower layer.

use tower::Layer;

use crate::auth::Auth;
use crate::service::AuthService;

/// Opens the session's sign-ins for each request and hands them to its extractors. Made by [`Auth::layer`], which goes
/// inside the session layer, or by [`Auth::layer_with`], which cannot be put in the wrong order.
#[derive(Clone, Debug)]
pub struct AuthLayer {
    auth: Auth,
}

impl AuthLayer {
    pub(crate) fn new(auth: Auth) -> Self {
        auth.core().cache.start_if_possible();
        Self { auth }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService::new(inner, self.auth.clone())
    }
}
