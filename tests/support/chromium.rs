//! Debian's Chromium, headless, driven through its ChromeDriver. Each [`Chromium`] is a browser of its own, with a profile
//! that starts empty and goes with it, so two of them are two people.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    elements::Element,
    error::CmdError,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{certified::artifacts, process::TiedProcess};

/// The driver does not watch its standard input, and a browser may outlive its driver, so a shell watches for both. They
/// are a process group, which is killed as a whole: a browser that ends in order, or whose parts notice one by one that
/// it is gone, writes to its profile while that is being deleted. Interrupts are for the test, whose end is the signal
/// here; and by then nobody reads what the shell says, so it says nothing.
const WATCH: &str = r#"
    trap '' INT HUP TERM
    setsid chromedriver --port=0 </dev/null 2>&1 &
    driver=$!
    cat >/dev/null
    exec >/dev/null 2>&1
    kill -s KILL -- -$driver
    wait $driver
    rm -rf "$1"
"#;

const DEADLINE: Duration = Duration::from_secs(20);

/// How a browser differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    block_third_party_cookies: bool,
    arguments: Vec<String>,
}

impl Launch {
    pub fn new() -> Self {
        Self::default()
    }

    /// As browsers do more and more: a frame of another site neither sends nor keeps cookies.
    pub fn block_third_party_cookies(mut self) -> Self {
        self.block_third_party_cookies = true;
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub async fn start(self) -> Chromium {
        Chromium::launch(self).await
    }
}

/// A cookie as the browser keeps it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrowserCookie {
    pub name: String,
    pub value: String,
    pub domain: String,
    pub path: String,
    #[serde(default)]
    pub secure: bool,
    #[serde(default)]
    pub http_only: bool,
    /// `Strict`, `Lax` or `None`; nothing if the cookie did not say.
    pub same_site: Option<String>,
}

/// A browser, running. It ends when this is dropped, and its profile is deleted.
#[derive(Debug)]
pub struct Chromium {
    client: Client,
    driver: TiedProcess,
    browser_id: Option<u64>,
    profile: PathBuf,
}

/// `None`: the driver takes a port that is free for IPv6, and somebody else has the same one for IPv4.
fn start_driver(profile: &Path, needed: &str) -> Option<(TiedProcess, u16)> {
    let mut command = Command::new("sh");
    command.args(["-c", WATCH, "sh"]).arg(profile);
    let mut driver = TiedProcess::spawn(command, needed);
    let port: Option<u16> = driver.wait_for_line("chromedriver", |line| {
        if line.contains("Address already in use") {
            return Some(None);
        }
        let port = line.split_once("started successfully on port ")?.1;
        port.trim_end_matches('.').parse().ok().map(Some)
    });
    port.map(|port| (driver, port))
}

impl Chromium {
    /// # Panics
    ///
    /// When Chromium or ChromeDriver are missing; the message says what to install.
    pub async fn start() -> Self {
        Self::launch(Launch::new()).await
    }

    async fn launch(launch: Launch) -> Self {
        const NEEDED: &str = "The tests need Chromium and its driver: run scripts/test, or \
            `apt-get install chromium chromium-driver`.";
        for program in ["chromium", "chromedriver"] {
            assert!(on_path(program), "{program} is not installed. {NEEDED}");
        }
        let profile = new_profile();

        let folder = profile.clone();
        let start = move || (0..5).find_map(|_| start_driver(&folder, NEEDED));
        let (driver, port) = tokio::task::spawn_blocking(start)
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            .expect("chromedriver did not start on any of five free ports");

        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(&launch, &profile))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("Chromium did not start: {error}"));
        let browser_id = client
            .capabilities()
            .and_then(|known| known.get("goog:processID")?.as_u64());
        Self {
            client,
            driver,
            browser_id,
            profile,
        }
    }

    /// For what this module has no function for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn driver_process_id(&self) -> u32 {
        self.driver.id()
    }

    pub fn browser_process_id(&self) -> Option<u64> {
        self.browser_id
    }

    pub fn profile(&self) -> &Path {
        &self.profile
    }

    pub async fn goto(&self, url: &str) {
        done(self.client.goto(url).await);
    }

    pub async fn url(&self) -> Url {
        done(self.client.current_url().await)
    }

    pub async fn title(&self) -> String {
        done(self.client.title().await)
    }

    pub async fn html(&self) -> String {
        done(self.client.source().await)
    }

    /// What a person can read on the page.
    pub async fn text(&self) -> String {
        let text = self
            .execute("return document.body ? document.body.innerText : ''")
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The browser's back button.
    pub async fn back(&self) {
        done(self.client.back().await);
    }

    pub async fn reload(&self) {
        done(self.client.refresh().await);
    }

    /// Waits for the element and clicks it. One that goes with its page between the two is looked for in the next page,
    /// and one that the page's script has yet to show is waited for.
    pub async fn click(&self, selector: &str) {
        self.wait_until(selector, async || {
            match self.wait_for(selector).await.click().await {
                Err(error)
                    if error.is_stale_element_reference()
                        || error.is_element_not_interactable() =>
                {
                    None
                }
                clicked => {
                    done(clicked);
                    Some(())
                }
            }
        })
        .await;
    }

    pub async fn click_id(&self, id: &str) {
        self.click(&format!("[id='{id}']")).await;
    }

    pub async fn type_into(&self, selector: &str, text: &str) {
        done(self.wait_for(selector).await.send_keys(text).await);
    }

    pub async fn exists(&self, selector: &str) -> bool {
        !done(self.client.find_all(Locator::Css(selector)).await).is_empty()
    }

    /// The element, as soon as there is one.
    pub async fn wait_for(&self, selector: &str) -> Element {
        match self
            .client
            .wait()
            .at_most(DEADLINE)
            .for_element(Locator::Css(selector))
            .await
        {
            Ok(element) => element,
            Err(error) => panic!(
                "no {selector} ({error}) on {}:\n{}",
                self.url().await,
                self.text().await
            ),
        }
    }

    /// Waits for the browser to be at an address that begins so.
    pub async fn wait_for_url(&self, prefix: &str) -> Url {
        self.wait_until(prefix, async || {
            let url = self.url().await;
            url.as_str().starts_with(prefix).then_some(url)
        })
        .await
    }

    pub async fn wait_for_text(&self, wanted: &str) {
        self.wait_until(wanted, async || {
            self.text().await.contains(wanted).then_some(())
        })
        .await;
    }

    /// Asks again and again, since a browser tells nobody when it is done.
    ///
    /// # Panics
    ///
    /// With `what` and the page, when the answer is nothing for 20 seconds.
    pub async fn wait_until<T>(&self, what: &str, found: impl AsyncFn() -> Option<T>) -> T {
        let polling = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(25));
            loop {
                ticks.tick().await;
                if let Some(found) = found().await {
                    return found;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, polling).await {
            Ok(found) => found,
            Err(_) => panic!(
                "waited in vain for {what} on {}:\n{}",
                self.url().await,
                self.text().await
            ),
        }
    }

    /// Goes through the provider's login and consent pages, whichever it shows.
    pub async fn sign_in_at_provider(&self, login: &str, back_at: &str) {
        // A page is answered once: the browser may still show it a while after its button was pressed.
        let answered = Mutex::new(HashSet::new());
        self.wait_until("the way through the provider's pages", async || {
            let url = self.client.current_url().await.ok()?;
            if url.as_str().starts_with(back_at) {
                return Some(());
            }
            let new = !answered
                .lock()
                .is_ok_and(|answered| answered.contains(&url));
            if new && self.answer_provider(login).await.is_ok() {
                answered.lock().ok()?.insert(url);
            }
            None
        })
        .await;
    }

    async fn answer_provider(&self, login: &str) -> Result<(), CmdError> {
        let button = self
            .client
            .find(Locator::Css("button[type=submit]"))
            .await?;
        if let Ok(field) = self.client.find(Locator::Css("input[name=login]")).await {
            // It is filled in already where the app sent a hint.
            field.clear().await?;
            field.send_keys(login).await?;
            let password = self
                .client
                .find(Locator::Css("input[name=password]"))
                .await?;
            password.send_keys("any").await?;
        }
        button.click().await
    }

    /// Confirms on the provider's logout page.
    pub async fn sign_out_at_provider(&self) {
        self.click("button[name=logout][value=yes]").await;
    }

    /// Runs a script that gives back its result by `return`.
    pub async fn execute(&self, script: &str) -> Value {
        done(self.client.execute(script, vec![]).await)
    }

    /// The cookies that the current page's address would be sent, `HttpOnly` ones included.
    pub async fn cookies(&self) -> Vec<BrowserCookie> {
        let url = self.url().await;
        self.read_cookies("Network.getCookies", json!({ "urls": [url.as_str()] }))
            .await
    }

    pub async fn cookie(&self, name: &str) -> Option<BrowserCookie> {
        self.cookies()
            .await
            .into_iter()
            .find(|cookie| cookie.name == name)
    }

    /// Every cookie of this browser, whatever its site.
    pub async fn all_cookies(&self) -> Vec<BrowserCookie> {
        self.read_cookies("Network.getAllCookies", json!({})).await
    }

    async fn read_cookies(&self, method: &'static str, parameters: Value) -> Vec<BrowserCookie> {
        let mut answer = self.cdp(method, parameters).await;
        serde_json::from_value(answer["cookies"].take()).expect("a list of cookies")
    }

    /// A command of the Chrome DevTools Protocol.
    pub async fn cdp(&self, method: &'static str, parameters: Value) -> Value {
        done(self.client.issue_cmd(Cdp { method, parameters }).await)
    }

    /// Saves a picture of the page below cargo's target folder and gives its path.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let picture = done(self.client.screenshot().await);
        let path = artifacts().join(format!("{name}.png"));
        fs::write(&path, picture).expect("cargo's folder can be written to");
        path
    }
}

#[derive(Debug)]
struct Cdp {
    method: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for Cdp {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, url::ParseError> {
        base_url.join(&format!(
            "session/{}/goog/cdp/execute",
            session_id.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        let body = json!({ "cmd": self.method, "params": self.parameters });
        (http::Method::POST, Some(body.to_string()))
    }
}

fn done<T>(result: Result<T, CmdError>) -> T {
    result.unwrap_or_else(|error| panic!("Chromium: {error}"))
}

fn capabilities(launch: &Launch, profile: &Path) -> Capabilities {
    let mut arguments: Vec<String> = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // The provider's pages ask for a font on the web, which would hold up every one of them where there is no network.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        "--window-size=1000,900",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments.extend(launch.arguments.iter().cloned());

    let blocked = launch.block_third_party_cookies;
    let preferences = json!({
        // 0: never, 1: on every site.
        "profile": { "cookie_controls_mode": u8::from(blocked), "block_third_party_cookies": blocked },
    });
    let capabilities = json!({
        "browserName": "chrome",
        "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments, "prefs": preferences },
    });
    serde_json::from_value(capabilities).expect("an object")
}

fn new_profile() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let profile = std::env::temp_dir().join(format!(
        "axum-signout-chromium-{}-{number}",
        std::process::id()
    ));
    fs::create_dir_all(&profile).expect("the temporary folder can be written to");
    profile
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
