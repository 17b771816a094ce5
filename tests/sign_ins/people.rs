//! An app that shows its users their sign-ins, and users with several browsers.

use axum::extract::Path;
use axum::http::header::USER_AGENT;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_signout::testing::{Page, TestBrowser, TestProvider};
use axum_signout::{Account, AuthBuilder, Error, SignInId, SignInSummary, SignIns, SignOutReport};
use serde_json::Value;

use crate::support::app::{App, Setup};
use crate::world::World;

type Answer<T> = Result<Json<T>, Error>;

/// What an app's own page would do.
pub fn routes() -> Router {
    let list = async |sign_ins: SignIns| -> Answer<Vec<SignInSummary>> {
        Ok(Json(sign_ins.list().await?))
    };
    let of = async |sign_ins: SignIns, Path(subject): Path<String>| -> Answer<Vec<SignInSummary>> {
        let issuer = sign_ins.account().issuer().to_owned();
        match sign_ins.of(&Account::new(issuer, subject))? {
            Some(others) => Ok(Json(others.list().await?)),
            None => Ok(Json(Vec::new())),
        }
    };
    let end = async |sign_ins: SignIns, Path(id): Path<SignInId>| -> Answer<SignOutReport> {
        Ok(Json(sign_ins.end(id).await?))
    };
    let others = async |sign_ins: SignIns| -> Answer<SignOutReport> {
        Ok(Json(sign_ins.end_others().await?))
    };
    let all = async |sign_ins: SignIns| Json(sign_ins.end_all().await);
    Router::new()
        .route("/sign-ins", get(list))
        .route("/sign-ins/of/{subject}", get(of))
        .route("/sign-ins/end/{id}", post(end))
        .route("/sign-ins/end-others", post(others))
        .route("/sign-ins/end-all", post(all))
}

pub fn labelled(auth: AuthBuilder) -> AuthBuilder {
    auth.sign_in_label(|request| Some(request.headers.get(USER_AGENT)?.to_str().ok()?.to_owned()))
}

pub fn setup() -> Setup {
    Setup::new().routes(routes()).auth(labelled)
}

pub async fn world() -> World {
    let setup = Setup::new().routes(routes());
    World::start(TestProvider::builder(), setup, labelled).await
}

pub async fn browser(app: &App, name: &str, login: &str) -> TestBrowser {
    let mut browser = TestBrowser::builder().user_agent(name).build();
    app.sign_in(&mut browser, login).await;
    browser
}

pub async fn list(app: &App, browser: &TestBrowser) -> Vec<Value> {
    let page = app.get(&mut browser.clone(), "/sign-ins").await;
    assert_eq!(page.status(), 200, "{}", page.body());
    page.json().unwrap().as_array().unwrap().clone()
}

/// The labels of the list, newest first.
pub async fn labels(app: &App, browser: &TestBrowser) -> Vec<String> {
    let all = list(app, browser).await;
    let label = |one: &Value| one["label"].as_str().unwrap_or_default().to_owned();
    all.iter().map(label).collect()
}

/// The id of the sign-in with this label.
pub async fn id_of(app: &App, browser: &TestBrowser, label: &str) -> String {
    let all = list(app, browser).await;
    let found = all.iter().find(|one| one["label"] == label).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

pub async fn own_id(app: &App, browser: &TestBrowser) -> String {
    let all = list(app, browser).await;
    let found = all.iter().find(|one| one["current"] == true).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

/// A form of the app's own page.
pub async fn press(app: &App, browser: &mut TestBrowser, path: &str) -> Page {
    app.get(browser, "/").await;
    browser.post_form(app.url(path), &[]).await.unwrap()
}

pub async fn pressed(app: &App, browser: &mut TestBrowser, path: &str) -> Value {
    let page = press(app, browser, path).await;
    assert_eq!(page.status(), 200, "{}", page.body());
    page.json().unwrap()
}

pub async fn who(app: &App, browser: &mut TestBrowser) -> String {
    app.get(browser, "/whoami").await.body().to_owned()
}

/// How many sign-ins a report says were evicted.
pub fn evicted(report: &Value) -> usize {
    report["evicted"].as_array().unwrap().len()
}
