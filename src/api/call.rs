//! One call: a token put on, and a second attempt with another one.

use axum::http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Request, RequestBuilder, Response};
use url::Position;

use super::challenge::{Verdict, judge};
use super::{Api, TokenSource};
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::token::AccessToken;

impl Api {
    /// `GET` of a path and query, which begins with a slash and is put after the base URL, or of an absolute URL below that, such as the
    /// link to a list's next page.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub async fn get(&self, tokens: &impl TokenSource, target: &str) -> Result<Response, Error> {
        let request = self.request(Method::GET, target)?;
        self.send(tokens, request).await
    }

    /// Any request, to be given to [`send`](Self::send) when it has its headers and body; the target is as for [`get`](Self::get).
    /// Sent by its own `send` it carries no token.
    ///
    /// ```
    /// # use axum_signout::{Api, Error, Tokens};
    /// # use axum::http::{Method, header};
    /// async fn send(mail: &Api, tokens: &Tokens, json: String) -> Result<bool, Error> {
    ///     let request = mail
    ///         .request(Method::POST, "/me/sendMail")?
    ///         .header(header::CONTENT_TYPE, "application/json")
    ///         .body(json);
    ///     Ok(mail.send(tokens, request).await?.status().is_success())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`]: the target is no path, leads elsewhere, or has a segment `..` or `.` in an encoded form.
    pub fn request(&self, method: Method, target: &str) -> Result<RequestBuilder, Error> {
        let url = self.0.origin.join(target).ok_or_else(elsewhere)?;
        Ok(self.0.client.request(method, url))
    }

    /// Sends a request with a token, by this API's own client, whichever it was made by; [once more](Self#what-becomes-of-a-401) with another
    /// token, where the API refused the first. The answer's status is the caller's to judge.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Forbidden`]: it would go elsewhere.
    /// * [`ErrorKind::Misconfigured`]: it cannot be built, or has a header `Authorization` or `Host`.
    /// * [`ErrorKind::ApiUnavailable`]: the API cannot be reached, or was too slow.
    /// * [`ErrorKind::InteractionRequired`]: the API, or the provider, wants to see the user.
    /// * Those of [`Tokens::acquire`](crate::Tokens::acquire), or of [`AppTokens::acquire`](crate::AppTokens::acquire), for either token. After a
    ///   sign-out there is none for a second attempt.
    pub async fn send(
        &self,
        tokens: &impl TokenSource,
        request: RequestBuilder,
    ) -> Result<Response, Error> {
        let (_, request) = request.build_split();
        let request = request.map_err(|error| {
            Error::new(
                ErrorKind::Misconfigured,
                "a request to an API cannot be built",
            )
            .with_source(error.without_url())
        })?;
        self.execute(tokens, request).await
    }

    async fn execute(
        &self,
        tokens: &impl TokenSource,
        request: Request,
    ) -> Result<Response, Error> {
        self.check(&request)?;
        let scopes: Vec<&str> = self.0.scopes.iter().map(String::as_str).collect();
        let again = request.try_clone();
        let token = tokens.acquire(&scopes, self.0.resource.as_deref()).await?;
        let response = self.attempt(request, &token).await?;
        if !self.is_for_another(tokens, &scopes, &response)? {
            return Ok(response);
        }
        // Also for a body that cannot be sent again: the app's next call, or the caller's own second attempt, has the other token.
        let other = tokens.acquire_other(&scopes, &token).await;
        let Some(again) = again else {
            return Ok(response);
        };
        let Some(other) = other? else {
            return Ok(response);
        };
        events::api_refused(self.0.origin.as_str(), "repeated");
        drop(response);
        let response = self.attempt(again, &other).await?;
        // Whatever it says but a challenge, there is no third time.
        self.is_for_another(tokens, &scopes, &response)?;
        Ok(response)
    }

    /// Whether another token may fare better; a challenge to the user is an error.
    fn is_for_another(
        &self,
        tokens: &impl TokenSource,
        scopes: &[&str],
        response: &Response,
    ) -> Result<bool, Error> {
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(false);
        }
        let wanted = match judge(response.headers()) {
            Verdict::OtherToken => return Ok(true),
            Verdict::Final => return Ok(false),
            Verdict::User(wanted) => wanted,
        };
        let resource = self.0.resource.as_deref();
        let error = Error::new(
            ErrorKind::InteractionRequired,
            "an API wants to see the user",
        );
        match tokens.interaction(error.with_wanted(wanted), scopes, resource) {
            Some(error) => {
                events::api_refused(self.0.origin.as_str(), "challenge");
                Err(error)
            }
            None => Ok(false),
        }
    }

    fn check(&self, request: &Request) -> Result<(), Error> {
        if !self.0.origin.covers(request.url()) {
            return Err(elsewhere());
        }
        // A server behind a shared front is another one by another name.
        for name in [header::AUTHORIZATION, header::HOST] {
            if request.headers().contains_key(&name) {
                let context = format!("a request to an API has a header `{name}` of its own");
                return Err(Error::new(ErrorKind::Misconfigured, context));
            }
        }
        Ok(())
    }

    async fn attempt(&self, mut request: Request, token: &AccessToken) -> Result<Response, Error> {
        let authorization = bearer(token)?;
        if !self.0.origin.covers(request.url()) {
            return Err(elsewhere());
        }
        // The client's own default headers are put on later, each where there is none yet.
        let host = &request.url()[Position::BeforeHost..Position::AfterPort];
        let host = HeaderValue::from_str(host).map_err(|_| elsewhere())?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::AUTHORIZATION, authorization);
        let unavailable = |what| Error::new(ErrorKind::ApiUnavailable, what);
        match tokio::time::timeout(self.0.timeout, self.0.client.execute(request)).await {
            Err(_) => Err(unavailable("an API did not answer in time")),
            // Its URL may have a query that is nobody's business.
            Ok(Err(error)) => {
                Err(unavailable("an API did not answer").with_source(error.without_url()))
            }
            Ok(Ok(response)) => Ok(response),
        }
    }
}

fn elsewhere() -> Error {
    Error::new(
        ErrorKind::Forbidden,
        "a call of an API would lead elsewhere",
    )
}

fn bearer(token: &AccessToken) -> Result<HeaderValue, Error> {
    let unusable = |what| Error::new(ErrorKind::ProviderRejected, what);
    // R33: nor `N_A`, which says that it is none.
    if !token.token_type().eq_ignore_ascii_case("bearer") {
        return Err(unusable("the token is not a bearer token"));
    }
    let value = HeaderValue::try_from(format!("Bearer {}", token.secret()));
    let mut value = value.map_err(|_| unusable("the token has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}
