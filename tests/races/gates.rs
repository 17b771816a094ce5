//! Where calls wait until the schedule lets one of them go on.

use std::sync::Mutex;

use tokio::sync::oneshot;

/// What becomes of a call of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    Fine,
    NotReached,
    AnswerLost,
}

#[derive(Default)]
pub struct Gates(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    closed: bool,
    arrived: u64,
    waiting: Vec<Waiting>,
}

struct Waiting {
    call: &'static str,
    may_fail: bool,
    /// Which of all that ever arrived.
    number: u64,
    go: oneshot::Sender<Fate>,
}

impl Gates {
    pub async fn pass(&self, call: &'static str, may_fail: bool) -> Fate {
        let answer = {
            let mut inside = self.0.lock().unwrap();
            if !inside.closed {
                return Fate::Fine;
            }
            inside.arrived += 1;
            let number = inside.arrived;
            let (go, answer) = oneshot::channel();
            inside.waiting.push(Waiting {
                call,
                may_fail,
                number,
                go,
            });
            answer
        };
        answer.await.unwrap_or(Fate::Fine)
    }

    pub fn close(&self) {
        self.0.lock().unwrap().closed = true;
    }

    pub fn open(&self) {
        let mut inside = self.0.lock().unwrap();
        inside.closed = false;
        inside.waiting.clear();
    }

    pub fn arrived(&self) -> u64 {
        self.0.lock().unwrap().arrived
    }

    /// Those that wait: the name of each, whether it may fail, and its number.
    pub fn waiting(&self) -> Vec<(&'static str, bool, u64)> {
        let mut inside = self.0.lock().unwrap();
        inside.waiting.retain(|one| !one.go.is_closed());
        let waiting = inside.waiting.iter();
        waiting
            .map(|one| (one.call, one.may_fail, one.number))
            .collect()
    }

    pub fn let_go(&self, number: u64, fate: Fate) {
        let mut inside = self.0.lock().unwrap();
        let place = inside.waiting.iter().position(|one| one.number == number);
        let one = inside.waiting.remove(place.expect("it waits"));
        // Whoever waited may have been given up.
        let _ = one.go.send(fate);
    }
}
