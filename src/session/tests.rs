//! Each test runs against the real session layer of both versions.

/// Bodies of tests that are the same for both versions, with a store whose operations can be made to fail.
macro_rules! version_tests {
    ($name:ident, $sessions:ident) => {
        pub(crate) mod $name {
            use std::collections::HashMap;
            use std::future::Future;
            use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
            use std::sync::{Arc, Mutex};
            use std::time::Duration;

            use async_trait::async_trait;
            use axum::body::Body;
            use axum::extract::Request;
            use axum::http::{StatusCode, header};
            use axum::response::Response;
            use axum::{Router, routing::any};
            use serde_json::json;
            use tower::ServiceExt as _;
            use $sessions::session::{Id, Record};
            use $sessions::session_store::{Error, Result};
            use $sessions::{Session, SessionManagerLayer, SessionStore};

            use crate::session::{AnySession, Reason, SessionData};

            /// A session store in memory that can be told to fail.
            #[derive(Clone, Debug, Default)]
            pub(crate) struct FailingStore(Arc<State>);

            #[derive(Debug, Default)]
            struct State {
                records: Mutex<HashMap<Id, Record>>,
                load_fails: AtomicBool,
                save_fails: AtomicBool,
                delete_fails: AtomicBool,
                delete_hangs: AtomicBool,
                deletes: AtomicUsize,
            }

            impl FailingStore {
                pub(crate) fn fail_all(&self) {
                    self.0.load_fails.store(true, Ordering::SeqCst);
                    self.0.save_fails.store(true, Ordering::SeqCst);
                    self.0.delete_fails.store(true, Ordering::SeqCst);
                }

                pub(crate) fn len(&self) -> usize {
                    self.0.records.lock().unwrap().len()
                }

                fn has(&self, id: &str) -> bool {
                    let id: Id = id.parse().unwrap();
                    self.0.records.lock().unwrap().contains_key(&id)
                }
            }

            fn fail(flag: &AtomicBool) -> Result<()> {
                if flag.load(Ordering::SeqCst) {
                    return Err(Error::Backend("redis://user:password@host".to_owned()));
                }
                Ok(())
            }

            #[async_trait]
            impl SessionStore for FailingStore {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    self.save(record).await
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    fail(&self.0.save_fails)?;
                    self.0.records.lock().unwrap().insert(record.id, record.clone());
                    Ok(())
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    fail(&self.0.load_fails)?;
                    Ok(self.0.records.lock().unwrap().get(id).cloned())
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    self.0.deletes.fetch_add(1, Ordering::SeqCst);
                    if self.0.delete_hangs.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    fail(&self.0.delete_fails)?;
                    self.0.records.lock().unwrap().remove(id);
                    Ok(())
                }
            }

            /// One request through the session layer; `handler` has the session.
            pub(crate) async fn request<F, Fut>(
                layer: SessionManagerLayer<FailingStore>,
                cookie: Option<&str>,
                handler: F,
            ) -> Response
            where
                F: Fn(AnySession, Session) -> Fut + Clone + Send + Sync + 'static,
                Fut: Future<Output = StatusCode> + Send + 'static,
            {
                let route = any(move |request: Request| {
                    let session = AnySession::from_extensions(request.extensions()).unwrap();
                    let inner = request.extensions().get::<Session>().unwrap().clone();
                    handler(session, inner)
                });
                let app = Router::new().route("/", route).layer(layer);
                let mut request = Request::builder().uri("/");
                if let Some(cookie) = cookie {
                    request = request.header(header::COOKIE, cookie);
                }
                app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
            }

            pub(crate) fn layer(store: &FailingStore) -> SessionManagerLayer<FailingStore> {
                SessionManagerLayer::new(store.clone())
            }

            pub(crate) fn set_cookies(response: &Response) -> Vec<String> {
                let all = response.headers().get_all(header::SET_COOKIE);
                all.iter().map(|v| v.to_str().unwrap().to_owned()).collect()
            }

            fn id_of(set_cookie: &str) -> &str {
                set_cookie.split(';').next().unwrap().strip_prefix("id=").unwrap()
            }

            fn is_removal(set_cookie: &str) -> bool {
                set_cookie.starts_with("id=;") && set_cookie.contains("Max-Age=0")
            }

            /// A session with data, as the cookie that opens it.
            async fn signed_in(store: &FailingStore) -> String {
                let response = request(layer(store), None, |session, _| async move {
                    session.set("user", json!("ann")).await.unwrap();
                    StatusCode::OK
                })
                .await;
                let cookies = set_cookies(&response);
                assert_eq!(cookies.len(), 1);
                format!("id={}", id_of(&cookies[0]))
            }

            #[tokio::test]
            async fn values_are_read_written_and_removed() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                request(layer(&store), Some(&cookie), |session, _| async move {
                    assert!(session.has_cookie() && !session.is_modified());
                    assert_eq!(session.get("user").await.unwrap(), Some(json!("ann")));
                    assert_eq!(session.get("other").await.unwrap(), None);
                    session.remove("user").await.unwrap();
                    assert_eq!(session.get("user").await.unwrap(), None);
                    assert!(session.is_modified());
                    StatusCode::OK
                })
                .await;
                request(layer(&store), Some(&cookie), |session, _| async move {
                    assert_eq!(session.get("user").await.unwrap(), None);
                    StatusCode::OK
                })
                .await;
            }

            #[tokio::test]
            async fn a_cookie_is_only_known_to_be_one_after_the_load() {
                let store = FailingStore::default();
                let planted = format!("id={}", Id::default());
                request(layer(&store), Some(&planted), |session, _| async move {
                    assert!(session.has_cookie());
                    assert_eq!(session.get("user").await.unwrap(), None);
                    assert!(!session.has_cookie());
                    StatusCode::OK
                })
                .await;
                for cookie in [None, Some("id=bogus"), Some("id="), Some("other=1")] {
                    request(layer(&store), cookie, |session, _| async move {
                        assert!(!session.has_cookie());
                        StatusCode::OK
                    })
                    .await;
                }
            }

            #[tokio::test]
            async fn ending_removes_record_and_cookie_r41() {
                for status in [StatusCode::OK, StatusCode::SEE_OTHER, StatusCode::INTERNAL_SERVER_ERROR] {
                    for load_first in [false, true] {
                        let store = FailingStore::default();
                        let cookie = signed_in(&store).await;
                        let response = request(layer(&store), Some(&cookie), move |session, inner| async move {
                            if load_first {
                                session.get("user").await.unwrap();
                            }
                            session.end().await.unwrap();
                            assert!(inner.is_empty().await);
                            assert_eq!(session.get("user").await.unwrap(), None);
                            status
                        })
                        .await;
                        let cookies = set_cookies(&response);
                        assert!(cookies.len() == 1 && is_removal(&cookies[0]), "{cookies:?}");
                        assert_eq!(store.len(), 0);
                    }
                }
            }

            #[tokio::test]
            async fn ending_removes_the_cookie_although_the_store_fails_a10() {
                for load_first in [false, true] {
                    for always_save in [false, true] {
                        let store = FailingStore::default();
                        let cookie = signed_in(&store).await;
                        let failing = store.clone();
                        let layer = layer(&store).with_always_save(always_save);
                        let response = request(layer, Some(&cookie), move |session, inner| {
                            let failing = failing.clone();
                            async move {
                                if load_first {
                                    session.get("user").await.unwrap();
                                }
                                failing.fail_all();
                                let error = session.end().await.unwrap_err();
                                assert_eq!(error.reason, Reason::Backend);
                                assert!(inner.is_empty().await && inner.id().is_none());
                                StatusCode::OK
                            }
                        })
                        .await;
                        assert_eq!(response.status(), StatusCode::OK);
                        let cookies = set_cookies(&response);
                        assert!(cookies.len() == 1 && is_removal(&cookies[0]), "{cookies:?}");
                    }
                }
            }

            #[tokio::test(start_paused = true)]
            async fn ending_removes_the_cookie_although_the_store_hangs_and_the_caller_gives_up() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                store.0.delete_hangs.store(true, Ordering::SeqCst);
                let response = request(layer(&store), Some(&cookie), |session, inner| async move {
                    let ended = tokio::time::timeout(Duration::from_secs(1), session.end()).await;
                    assert!(ended.is_err());
                    assert!(inner.is_empty().await);
                    StatusCode::OK
                })
                .await;
                let cookies = set_cookies(&response);
                assert!(cookies.len() == 1 && is_removal(&cookies[0]), "{cookies:?}");
            }

            #[tokio::test]
            async fn what_is_inserted_after_the_end_gets_a_new_id() {
                for delete_fails in [false, true] {
                    for load_first in [false, true] {
                        for flush_first in [false, true] {
                            let store = FailingStore::default();
                            let cookie = signed_in(&store).await;
                            let old = cookie.strip_prefix("id=").unwrap().to_owned();
                            let failing = store.clone();
                            let response = request(layer(&store), Some(&cookie), move |session, inner| {
                                let failing = failing.clone();
                                async move {
                                    if load_first {
                                        session.get("user").await.unwrap();
                                    }
                                    failing.0.delete_fails.store(delete_fails, Ordering::SeqCst);
                                    if flush_first {
                                        let _ = inner.flush().await;
                                    }
                                    assert_eq!(session.end().await.is_err(), delete_fails);
                                    session.set("note", json!("signed out")).await.unwrap();
                                    StatusCode::OK
                                }
                            })
                            .await;
                            let cookies = set_cookies(&response);
                            assert_eq!(cookies.len(), 1);
                            let new = id_of(&cookies[0]);
                            assert!(!new.is_empty() && new != old, "{cookies:?}");
                            assert!(store.has(new));
                            assert_eq!(store.has(&old), delete_fails);
                            let cookie = format!("id={new}");
                            request(layer(&store), Some(&cookie), |session, _| async move {
                                assert_eq!(session.get("user").await.unwrap(), None);
                                assert!(session.get("note").await.unwrap().is_some());
                                StatusCode::OK
                            })
                            .await;
                        }
                    }
                }
            }

            #[tokio::test]
            async fn ending_twice_or_without_a_session_is_fine() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                let response = request(layer(&store), Some(&cookie), |session, _| async move {
                    session.end().await.unwrap();
                    session.end().await.unwrap();
                    StatusCode::OK
                })
                .await;
                assert!(is_removal(&set_cookies(&response)[0]));

                let response = request(layer(&store), None, |session, _| async move {
                    session.end().await.unwrap();
                    StatusCode::OK
                })
                .await;
                assert!(set_cookies(&response).is_empty());

                let response = request(layer(&store), Some("id=bogus"), |session, _| async move {
                    session.end().await.unwrap();
                    StatusCode::OK
                })
                .await;
                assert!(is_removal(&set_cookies(&response)[0]));
                assert_eq!(store.len(), 0);
            }

            #[tokio::test]
            async fn a_cycled_session_keeps_its_data_under_a_new_id_r37() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                let response = request(layer(&store), Some(&cookie), |session, _| async move {
                    session.cycle_id().await.unwrap();
                    assert!(!session.has_cookie());
                    session.set("more", json!(1)).await.unwrap();
                    session.save().await.unwrap();
                    assert!(session.has_cookie());
                    StatusCode::OK
                })
                .await;
                let cookies = set_cookies(&response);
                let new = format!("id={}", id_of(&cookies[0]));
                assert_ne!(new, cookie);
                assert_eq!(store.len(), 1);
                request(layer(&store), Some(&new), |session, _| async move {
                    assert_eq!(session.get("user").await.unwrap(), Some(json!("ann")));
                    assert_eq!(session.get("more").await.unwrap(), Some(json!(1)));
                    StatusCode::OK
                })
                .await;
            }

            #[tokio::test]
            async fn errors_name_the_operation_and_nothing_of_the_store_a11() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                store.fail_all();
                request(layer(&store), Some(&cookie), |session, _| async move {
                    let errors = [
                        ("read", session.get("user").await.unwrap_err()),
                        ("change", session.set("user", json!(1)).await.unwrap_err()),
                        ("change", session.remove("user").await.unwrap_err()),
                        ("save", session.save().await.unwrap_err()),
                        ("renew", session.cycle_id().await.unwrap_err()),
                    ];
                    for (operation, error) in errors {
                        assert_eq!(
                            error.to_string(),
                            format!("could not {operation} the session: the session store failed")
                        );
                        assert!(!format!("{error:?}").contains("password"));
                    }
                    assert!(session.has_cookie());
                    StatusCode::OK
                })
                .await;
            }

            #[tokio::test]
            async fn debug_shows_no_id() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                request(layer(&store), Some(&cookie), |session, _| async move {
                    session.get("user").await.unwrap();
                    assert_eq!(format!("{session:?}"), "AnySession([redacted])");
                    StatusCode::OK
                })
                .await;
            }

            #[tokio::test]
            async fn what_another_version_wrote_is_told_from_nothing() {
                let store = FailingStore::default();
                let cookie = signed_in(&store).await;
                request(layer(&store), Some(&cookie), |session, _| async move {
                    assert!(session.sign_ins().await.unwrap().is_empty());
                    session.set(SessionData::KEY, json!({"v": 9})).await.unwrap();
                    assert!(session.sign_ins().await.unwrap_err().is_garbage());
                    session.set_sign_ins(&SessionData::default()).await.unwrap();
                    assert_eq!(session.get(SessionData::KEY).await.unwrap(), None);
                    assert_eq!(session.get("user").await.unwrap(), Some(json!("ann")));
                    StatusCode::OK
                })
                .await;
            }
        }
    };
}

#[cfg(feature = "tower-sessions-015")]
version_tests!(v015, tower_sessions);
#[cfg(feature = "tower-sessions-014")]
version_tests!(v014, tower_sessions_014);
