//! What the provider remembers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use super::{
    config::{NeedsConsent, TestClient, TestUser},
    keys::{KeyRing, random},
    params::Params,
};

/// A session at the provider, as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// `sid` in the ID tokens of this session. It is the same for every client
    /// and every sign-in of the session.
    pub sid: String,
    /// Who is signed in.
    pub subject: String,
    /// The clients that got a code in this session.
    pub clients: BTreeSet<String>,
    /// When the user last signed in, in seconds since the epoch.
    pub auth_time: i64,
}

pub(super) struct Session {
    pub(super) sid: String,
    pub(super) login: String,
    pub(super) subject: String,
    pub(super) clients: BTreeSet<String>,
    pub(super) auth_time: i64,
}

impl Session {
    pub(super) fn info(&self) -> SessionInfo {
        SessionInfo {
            sid: self.sid.clone(),
            subject: self.subject.clone(),
            clients: self.clients.clone(),
            auth_time: self.auth_time,
        }
    }
}

/// An authorization request that was found to be in order.
#[derive(Clone)]
pub(super) struct AuthorizeRequest {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) form_post: bool,
    pub(super) state: Option<String>,
    pub(super) nonce: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) code_challenge: Option<String>,
    pub(super) resources: Vec<String>,
    pub(super) acr: Option<String>,
    pub(super) login_hint: Option<String>,
    pub(super) locale: String,
    pub(super) force_consent: bool,
}

/// What a user allowed a client: the family of tokens that live and die
/// together.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) login: String,
    pub(super) subject: String,
    pub(super) sid: String,
    pub(super) scopes: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) nonce: Option<String>,
    pub(super) acr: Option<String>,
    pub(super) auth_time: i64,
    pub(super) revoked: bool,
}

impl Grant {
    pub(super) fn offline(&self) -> bool {
        self.scopes.iter().any(|scope| scope == "offline_access")
    }
}

pub(super) struct Code {
    pub(super) grant: usize,
    pub(super) redirect_uri: String,
    pub(super) code_challenge: Option<String>,
    pub(super) expires: i64,
    pub(super) used: bool,
}

pub(super) struct AccessToken {
    pub(super) client_id: String,
    pub(super) grant: Option<usize>,
    pub(super) scopes: Vec<String>,
    pub(super) audience: Vec<String>,
    pub(super) issued: i64,
    pub(super) expires: i64,
    pub(super) revoked: bool,
}

pub(super) struct RefreshToken {
    pub(super) grant: usize,
    pub(super) retired: bool,
    pub(super) revoked: bool,
}

pub(super) struct IdToken {
    pub(super) client_id: String,
    pub(super) sid: String,
    pub(super) login: String,
}

#[derive(Clone)]
pub(super) struct EndSession {
    pub(super) session: String,
    pub(super) target: Option<String>,
}

pub(super) struct State {
    pub(super) clients: BTreeMap<String, TestClient>,
    pub(super) users: BTreeMap<String, TestUser>,
    pub(super) needs_consent: Vec<NeedsConsent>,
    pub(super) consents: HashSet<(String, String, String)>,
    pub(super) keys: KeyRing,
    pub(super) clock_offset: i64,
    /// By the value of the cookie.
    pub(super) sessions: HashMap<String, Session>,
    pub(super) interactions: HashMap<String, AuthorizeRequest>,
    pub(super) ending: HashMap<String, EndSession>,
    pub(super) grants: Vec<Grant>,
    pub(super) codes: HashMap<String, Code>,
    pub(super) access_tokens: HashMap<String, AccessToken>,
    pub(super) refresh_tokens: HashMap<String, RefreshToken>,
    pub(super) id_tokens: HashMap<String, IdToken>,
    pub(super) secrets: BTreeSet<String>,
}

impl State {
    pub(super) fn new(keys: KeyRing) -> Self {
        Self {
            clients: BTreeMap::new(),
            users: BTreeMap::new(),
            needs_consent: Vec::new(),
            consents: HashSet::new(),
            keys,
            clock_offset: 0,
            sessions: HashMap::new(),
            interactions: HashMap::new(),
            ending: HashMap::new(),
            grants: Vec::new(),
            codes: HashMap::new(),
            access_tokens: HashMap::new(),
            refresh_tokens: HashMap::new(),
            id_tokens: HashMap::new(),
            secrets: BTreeSet::new(),
        }
    }

    pub(super) fn note_secret(&mut self, secret: &str) {
        self.secrets.insert(secret.to_owned());
    }

    pub(super) fn new_secret(&mut self) -> String {
        let secret = random();
        self.note_secret(&secret);
        secret
    }

    /// What a request carried that must not be logged, known or not.
    pub(super) fn note_secrets_of(&mut self, params: &Params) {
        const SECRET: [&str; 13] = [
            "state",
            "nonce",
            "code",
            "code_verifier",
            "client_secret",
            "refresh_token",
            "token",
            "id_token_hint",
            "logout_token",
            "subject_token",
            "actor_token",
            "assertion",
            "client_assertion",
        ];
        for name in SECRET {
            for value in params.all(name) {
                self.note_secret(value);
            }
        }
    }

    pub(super) fn now(&self) -> i64 {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX) + self.clock_offset
    }

    /// Signs a user in: anew, or once more in the session that the cookie
    /// names. Returns the cookie's value.
    pub(super) fn sign_in(&mut self, cookie: Option<&str>, user: &TestUser) -> String {
        let now = self.now();
        if let Some(cookie) = cookie
            && let Some(session) = self.sessions.get_mut(cookie)
            && session.login == user.login
        {
            session.auth_time = now;
            return cookie.to_owned();
        }
        let cookie = self.new_secret();
        let mut sid = random();
        sid.truncate(22);
        let session = Session {
            sid,
            login: user.login.clone(),
            subject: user.subject.clone(),
            clients: BTreeSet::new(),
            auth_time: now,
        };
        self.sessions.insert(cookie.clone(), session);
        cookie
    }

    /// Takes a session out, and with it the grants that were made without
    /// `offline_access`.
    pub(super) fn remove_session(&mut self, cookie: &str) -> Option<Session> {
        let session = self.sessions.remove(cookie)?;
        for grant in &mut self.grants {
            if grant.sid == session.sid && !grant.offline() {
                grant.revoked = true;
            }
        }
        Some(session)
    }

    pub(super) fn cookie_of(&self, sid: &str) -> Option<String> {
        self.sessions
            .iter()
            .find(|(_, session)| session.sid == sid)
            .map(|(cookie, _)| cookie.clone())
    }

    pub(super) fn grant_alive(&self, grant: usize) -> bool {
        self.grants.get(grant).is_some_and(|grant| !grant.revoked)
    }

    pub(super) fn access_token_active(&self, token: &AccessToken) -> bool {
        !token.revoked
            && token.expires > self.now()
            && token.grant.is_none_or(|grant| self.grant_alive(grant))
    }

    pub(super) fn is_active(&self, token: &str) -> bool {
        if let Some(token) = self.access_tokens.get(token) {
            return self.access_token_active(token);
        }
        self.refresh_tokens
            .get(token)
            .is_some_and(|token| !token.retired && !token.revoked && self.grant_alive(token.grant))
    }

    /// The first of the scopes that the user has yet to allow to the client.
    pub(super) fn missing_consent(
        &self,
        login: &str,
        client_id: &str,
        scopes: &[String],
    ) -> Option<&NeedsConsent> {
        self.needs_consent.iter().find(|needed| {
            scopes.contains(&needed.scope)
                && !self.consents.contains(&(
                    login.to_owned(),
                    client_id.to_owned(),
                    needed.scope.clone(),
                ))
        })
    }

    pub(super) fn consent(&mut self, login: &str, client_id: &str, scopes: &[String]) {
        for scope in scopes {
            self.consents
                .insert((login.to_owned(), client_id.to_owned(), scope.clone()));
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("clients", &self.clients.keys())
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}
