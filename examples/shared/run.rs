//! Configuration by the environment, as `web_app` has it, and serving.

use std::error::Error;

use axum::Router;
use axum_signout::Auth;
use axum_signout::testing::{TestClient, TestProvider};
use tokio::net::TcpListener;

use super::openid::Registration;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Serves what `app` makes of the registration and the base URL. Without `OIDC_ISSUER`, a provider in this process takes the
/// place of a real one.
pub async fn run<E>(
    app: impl FnOnce(Registration, &str) -> Result<(Auth, Router), E>,
) -> Result<(), Box<dyn Error>>
where
    Box<dyn Error>: From<E>,
{
    let bind = variable("BIND").unwrap_or_else(|| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(&bind).await?;
    let base_url = variable("BASE_URL").unwrap_or(format!("http://{}", listener.local_addr()?));
    let redirect_uri = format!("{base_url}/login/callback");
    // Lives as long as the app does.
    let mut stand_in = None;
    let registration = match variable("OIDC_ISSUER") {
        Some(issuer) => Registration {
            issuer,
            client_id: variable("OIDC_CLIENT_ID").ok_or("OIDC_CLIENT_ID must be set")?,
            client_secret: variable("OIDC_CLIENT_SECRET"),
            redirect_uri,
        },
        None => {
            let client = TestClient::new("example")
                .redirect_uri(&redirect_uri)
                .post_logout_redirect_uri(format!("{base_url}/signout/callback"));
            let provider = TestProvider::builder().client(client).start().await;
            let issuer = provider.issuer().to_owned();
            stand_in = Some(provider);
            Registration {
                issuer,
                client_id: "example".into(),
                client_secret: None,
                redirect_uri,
            }
        }
    };
    let (auth, app) = app(registration, &base_url)?;
    println!("listening on {base_url}");
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    auth.shutdown().await;
    drop(stand_in);
    Ok(())
}
