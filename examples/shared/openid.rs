//! Signing in with `openidconnect`: what an app that has its own sign-in has already.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreProviderMetadata, CoreTokenResponse,
};
use openidconnect::{
    AsyncHttpClient, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpClientError, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

/// The registration at the provider.
#[derive(Clone)]
pub struct Registration {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<String>,
    pub redirect_uri: String,
}

/// Why a sign-in did not succeed. It says which step it was and no more: the errors of a client can quote what the provider
/// answered, tokens included.
#[derive(Debug)]
pub struct Failed(&'static str);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Failed {}

fn failed<E>(step: &'static str) -> impl FnOnce(E) -> Failed {
    move |_| Failed(step)
}

/// What is remembered in the session while the user is at the provider.
#[derive(Serialize, Deserialize)]
pub struct UnderWay {
    state: CsrfToken,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
}

/// What the provider sends along when the user is back.
#[derive(Deserialize)]
pub struct Answer {
    state: String,
    code: String,
}

/// Who has signed in, by a verified ID token, and the tokens.
pub struct Arrived {
    pub subject: String,
    pub response: CoreTokenResponse,
}

/// `openidconnect` brings an older reqwest.
struct Http(reqwest::Client);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpClientError<reqwest::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Self::Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let boxed = |error| HttpClientError::Reqwest(Box::new(error));
            let request = request.try_into().map_err(boxed)?;
            let response = self.0.execute(request).await.map_err(boxed)?;
            let mut answer = HttpResponse::new(Vec::new());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = response.headers().clone();
            *answer.body_mut() = response.bytes().await.map_err(boxed)?.to_vec();
            Ok(answer)
        })
    }
}

/// With what a provider's metadata tells.
type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

pub struct OpenId {
    registration: Registration,
    metadata: OnceCell<CoreProviderMetadata>,
    http: Http,
}

impl OpenId {
    pub fn new(registration: Registration) -> Result<Self, Failed> {
        // A redirect could lead a token request elsewhere.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(std::time::Duration::from_secs(10));
        // What is on this machine is not reached through a proxy.
        let http = if registration.issuer.starts_with("http:") {
            http.no_proxy()
        } else {
            http
        };
        Ok(Self {
            registration,
            metadata: OnceCell::new(),
            http: Http(http.build().map_err(failed("no HTTP client"))?),
        })
    }

    async fn metadata(&self) -> Result<&CoreProviderMetadata, Failed> {
        let discover = async || {
            let issuer = IssuerUrl::new(self.registration.issuer.clone());
            let issuer = issuer.map_err(failed("the issuer is not a URL"))?;
            CoreProviderMetadata::discover_async(issuer, &self.http)
                .await
                .map_err(failed("the provider's metadata could not be read"))
        };
        self.metadata.get_or_try_init(discover).await
    }

    async fn client(&self) -> Result<Client, Failed> {
        let Registration {
            client_id,
            client_secret,
            redirect_uri,
            ..
        } = self.registration.clone();
        let redirect_uri = RedirectUrl::new(redirect_uri);
        let redirect_uri = redirect_uri.map_err(failed("the redirect URI is not a URL"))?;
        let client = Client::from_provider_metadata(
            self.metadata().await?.clone(),
            ClientId::new(client_id),
            client_secret.map(ClientSecret::new),
        );
        Ok(client.set_redirect_uri(redirect_uri))
    }

    /// Where to send the user, and what to remember.
    pub async fn start(&self) -> Result<(String, UnderWay), Failed> {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state, nonce) = self
            .client()
            .await?
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scope(Scope::new("profile".into()))
            .set_pkce_challenge(challenge)
            .url();
        let under_way = UnderWay {
            state,
            nonce,
            verifier,
        };
        Ok((url.into(), under_way))
    }

    /// Exchanges the code and verifies the ID token.
    pub async fn finish(&self, under_way: UnderWay, answer: Answer) -> Result<Arrived, Failed> {
        if CsrfToken::new(answer.state).secret() != under_way.state.secret() {
            return Err(Failed("the answer belongs to another sign-in"));
        }
        let client = self.client().await?;
        let response: CoreTokenResponse = client
            .exchange_code(AuthorizationCode::new(answer.code))
            .map_err(failed("the provider has no token endpoint"))?
            .set_pkce_verifier(under_way.verifier)
            .request_async(&self.http)
            .await
            .map_err(failed("the code was refused"))?;
        let id_token = response.id_token().ok_or(Failed("there is no ID token"))?;
        let claims = id_token
            .claims(&client.id_token_verifier(), &under_way.nonce)
            .map_err(failed("the ID token is not valid"))?;
        Ok(Arrived {
            subject: claims.subject().to_string(),
            response,
        })
    }
}
