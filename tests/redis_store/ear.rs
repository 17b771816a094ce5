//! Somebody who hears what a store tells.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum_signout::store::{RedisTokenStore, StoreListener, TokenStore as _};
use axum_signout::{Address, Cause};
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Ended(Address, Cause),
    Changed(Address),
    Missed,
}

struct Listener(mpsc::UnboundedSender<Told>);

impl Listener {
    fn tell(&self, told: Told) {
        let _ = self.0.send(told);
    }
}

impl StoreListener for Listener {
    fn ended(&self, address: &Address, cause: Cause) {
        self.tell(Told::Ended(*address, cause));
    }

    fn changed(&self, address: &Address) {
        self.tell(Told::Changed(*address));
    }

    fn missed(&self) {
        self.tell(Told::Missed);
    }
}

pub struct Ear {
    told: mpsc::UnboundedReceiver<Told>,
    _listener: Arc<Listener>,
}

impl Ear {
    /// Returns once each of so many masters is heard.
    pub async fn of(store: &RedisTokenStore, masters: usize) -> Self {
        let mut ear = Self::early(store);
        for _ in 0..masters {
            assert_eq!(ear.next().await, Told::Missed);
        }
        ear
    }

    /// Returns at once.
    pub fn early(store: &RedisTokenStore) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let listener = Arc::new(Listener(tell));
        let weak: Weak<Listener> = Arc::downgrade(&listener);
        store.listen(weak);
        Self {
            told,
            _listener: listener,
        }
    }

    /// # Panics
    ///
    /// When nothing comes for half a minute.
    pub async fn next(&mut self) -> Told {
        let next = tokio::time::timeout(Duration::from_secs(30), self.told.recv()).await;
        next.expect("nothing was told")
            .expect("the listener is there")
    }

    /// Everything up to this, and it.
    pub async fn until(&mut self, last: Told) -> Vec<Told> {
        let mut all = Vec::new();
        while all.last() != Some(&last) {
            all.push(self.next().await);
        }
        all
    }
}
