//! Signing out: evict, end the session, expire its cookie, tell the hooks, and only then the provider (promise 2).

mod after;
mod back_channel;
mod elsewhere;
mod request;
mod rp_initiated;
mod run;

pub(crate) use self::after::{CallbackQuery, Onward, after_sign_out, finish, forget, unfinished};
pub(crate) use self::back_channel::{Refusal, back_channel};
pub(crate) use self::elsewhere::end;
pub use self::request::EndSessionRequest;
pub(crate) use self::rp_initiated::Exit;
pub(crate) use self::run::{Outcome, end_session, renew_session, sign_out};
