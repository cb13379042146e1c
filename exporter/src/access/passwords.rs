//! Checks passwords. bcrypt is slow on purpose, so results are kept, and only one password at a time is
//! hashed, on a thread that exists only meanwhile.
//!
//! * What was right or wrong before is answered at once, whatever else is being checked. Results are kept by
//!   an HMAC with a key of this process, so memory has no passwords.
//! * Origins take turns, so whoever floods from one address delays others by one check each. Each origin can
//!   have [`PER_ORIGIN`] checks waiting, and all together [`IN_ALL`].
//! * A user that does not exist costs the same as a wrong password: the hash of one that exists is checked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::header::HeaderValue;
use sha2::Sha256;
use tokio::sync::oneshot;
use tokio_rustls::rustls::crypto::ring;

use super::Origin;
use crate::config::web::Secret;

/// Checks of an origin that can wait.
const PER_ORIGIN: usize = 16;

/// Checks that can wait.
const IN_ALL: usize = 256;

/// Results to keep, of right passwords and of wrong ones.
const KEPT: usize = 128;

/// The scheme, and the blank after it.
const SCHEME: &str = "Basic ";

/// The users and the hashes of their passwords.
pub(super) type Users = BTreeMap<String, Secret>;

/// What is known about who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The user and the password are right, or none is needed.
    Allowed,
    /// They are wrong or missing.
    Denied,
    /// Too many others are being checked.
    Busy,
}

/// What was checked: a user, a hash and a password.
type Fingerprint = [u8; 32];

/// The results so far, and the checks that wait.
#[derive(Clone)]
pub(super) struct Passwords(Arc<Shared>);

struct Shared {
    /// A key that nobody else knows.
    key: Hmac<Sha256>,
    /// Whether a password has this hash. It is slow.
    has_hash: fn(&[u8], &str) -> bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    right: Kept,
    wrong: Kept,
    queue: Queue,
    /// The check in progress, and who waits for it.
    running: Option<(Fingerprint, Vec<oneshot::Sender<Checked>>)>,
    /// Whether the thread exists that checks what waits.
    has_thread: bool,
}

/// The latest results of one kind.
#[derive(Default)]
struct Kept {
    known: BTreeSet<Fingerprint>,
    order: VecDeque<Fingerprint>,
}

impl Kept {
    fn insert(&mut self, fingerprint: Fingerprint) {
        if !self.known.insert(fingerprint) {
            return;
        }
        self.order.push_back(fingerprint);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// A check that waits.
struct Job {
    fingerprint: Fingerprint,
    hash: Secret,
    password: Vec<u8>,
    /// Whether the hash is that of the user.
    is_user: bool,
    replies: Vec<oneshot::Sender<Checked>>,
}

/// The checks that wait, by origin. Origins take turns.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<Origin, VecDeque<Job>>,
    /// The origins in `waiting`, in the order of their turns.
    turns: VecDeque<Origin>,
    len: usize,
}

impl Queue {
    /// Adds a check. Returns it if too many wait.
    fn push(&mut self, origin: Origin, job: Job) -> Result<(), Job> {
        let of_origin = self.waiting.get(&origin).map_or(0, VecDeque::len);
        if of_origin >= PER_ORIGIN || self.len >= IN_ALL {
            return Err(job);
        }
        if of_origin == 0 {
            self.turns.push_back(origin);
        }
        self.waiting.entry(origin).or_default().push_back(job);
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Job> {
        let origin = self.turns.pop_front()?;
        let jobs = self.waiting.get_mut(&origin)?;
        let job = jobs.pop_front()?;
        self.len -= 1;
        if jobs.is_empty() {
            self.waiting.remove(&origin);
        } else {
            self.turns.push_back(origin);
        }
        Some(job)
    }

    fn find(&mut self, fingerprint: &Fingerprint) -> Option<&mut Job> {
        self.waiting.values_mut().flatten().find(|job| job.fingerprint == *fingerprint)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new(|password, hash| bcrypt::verify(password, hash).unwrap_or_default())
    }
}

impl Passwords {
    fn new(has_hash: fn(&[u8], &str) -> bool) -> Self {
        let mut key = [0; 32];
        let filled = ring::default_provider().secure_random.fill(&mut key);
        filled.expect("the kernel has random numbers once it runs programs");
        let key = Hmac::new_from_slice(&key).expect("an HMAC takes a key of any length");
        Self(Arc::new(Shared { key, has_hash, state: Mutex::default() }))
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Checks the user and the password in a header. There must be users. Calls `waits` before it waits.
    pub(super) async fn check(
        &self,
        users: &Users,
        authorization: Option<&HeaderValue>,
        origin: Origin,
        waits: impl FnOnce(),
    ) -> Checked {
        let Some((name, password)) = authorization.and_then(credentials) else {
            return Checked::Denied;
        };
        let known = str::from_utf8(&name).ok().and_then(|name| users.get(name));
        let Some(hash) = known.or_else(|| self.stand_in(users, &name)) else {
            return Checked::Denied;
        };
        let fingerprint = self.fingerprint(&[&name, hash.reveal().as_bytes(), &password]);
        let checked = {
            let mut state = self.lock();
            if state.right.known.contains(&fingerprint) {
                return Checked::Allowed;
            }
            if state.wrong.known.contains(&fingerprint) {
                return Checked::Denied;
            }
            let (reply, checked) = oneshot::channel();
            match &mut state.running {
                Some((running, replies)) if *running == fingerprint => replies.push(reply),
                _ => {
                    let is_user = known.is_some();
                    let replies = vec![reply];
                    let hash = hash.clone();
                    let job = Job { fingerprint, hash, password, is_user, replies };
                    if !self.enqueue(&mut state, origin, job) {
                        return Checked::Busy;
                    }
                }
            }
            checked
        };
        waits();
        checked.await.unwrap_or(Checked::Busy)
    }

    /// The hash to check for a user that does not exist. For the same name, it is always that of the same user,
    /// so that it takes as long each time.
    fn stand_in<'u>(&self, users: &'u Users, name: &[u8]) -> Option<&'u Secret> {
        let number = u64::from_le_bytes(*self.fingerprint(&[name]).first_chunk()?);
        let place = number % u64::try_from(users.len()).ok().filter(|len| *len > 0)?;
        users.values().nth(usize::try_from(place).ok()?)
    }

    /// An HMAC of parts of any length.
    fn fingerprint(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut mac = self.0.key.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Adds a check, or a reply to one that waits already, and starts the thread if there is none. Returns
    /// whether it could.
    fn enqueue(&self, state: &mut State, origin: Origin, mut job: Job) -> bool {
        if let Some(waiting) = state.queue.find(&job.fingerprint) {
            waiting.replies.append(&mut job.replies);
            return true;
        }
        if state.queue.push(origin, job).is_err() {
            return false;
        }
        if !state.has_thread {
            self.start(state);
        }
        true
    }

    /// Starts the thread that checks passwords until none waits.
    fn start(&self, state: &mut State) {
        let passwords = self.clone();
        let started = thread::Builder::new().name("bcrypt".into()).spawn(move || passwords.work());
        match started {
            // It waits for the lock that the caller holds.
            Ok(_) => state.has_thread = true,
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread to check passwords");
                // Those who wait are told that they cannot be checked now.
                state.queue = Queue::default();
            }
        }
    }

    fn work(&self) {
        while let Some((hash, password, is_user)) = self.next() {
            let is_right = (self.0.has_hash)(&password, hash.reveal()) && is_user;
            let checked = if is_right { Checked::Allowed } else { Checked::Denied };
            let mut state = self.lock();
            let Some((fingerprint, replies)) = state.running.take() else { return };
            let kept = if is_right { &mut state.right } else { &mut state.wrong };
            kept.insert(fingerprint);
            drop(state);
            for reply in replies {
                // Fails if the client has gone.
                let _ = reply.send(checked);
            }
        }
    }

    /// Takes the next check; `None` if the thread is to end.
    fn next(&self) -> Option<(Secret, Vec<u8>, bool)> {
        let mut state = self.lock();
        let job = state.queue.pop();
        let Some(Job { fingerprint, hash, password, is_user, replies }) = job else {
            state.has_thread = false;
            return None;
        };
        state.running = Some((fingerprint, replies));
        Some((hash, password, is_user))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user and the password in a header. <https://www.rfc-editor.org/rfc/rfc7617.html#section-2>
fn credentials(header: &HeaderValue) -> Option<(Vec<u8>, Vec<u8>)> {
    let header = header.as_bytes();
    let (scheme, encoded) = header.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return None;
    }
    let mut name = BASE64_STANDARD.decode(encoded).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.pop();
    Some((name, password))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        task::{JoinHandle, yield_now},
        time::timeout,
    };

    use super::*;
    use crate::config::web::WebConfig;

    /// Users with their passwords, at a cost.
    fn users(cost: u32, passwords: &[(&str, &str)]) -> Users {
        let mut text = "basic_auth_users:\n".to_owned();
        for (user, password) in passwords {
            let hash = bcrypt::hash(password, cost).unwrap();
            text.extend(["  ", user, ": ", &hash, "\n"]);
        }
        WebConfig::parse(&text).unwrap().users
    }

    fn header(text: &str) -> HeaderValue {
        format!("Basic {}", BASE64_STANDARD.encode(text)).parse().unwrap()
    }

    async fn check(passwords: &Passwords, users: &Users, credentials: &str) -> Checked {
        passwords.check(users, Some(&header(credentials)), Origin::Local, || ()).await
    }

    fn job(number: u8) -> Job {
        let hash = users(4, &[("a", "b")])["a"].clone();
        Job { fingerprint: [number; 32], hash, password: vec![], is_user: true, replies: vec![] }
    }

    fn address(number: u8) -> Origin {
        Origin::V4([10, 0, 0, number])
    }

    #[tokio::test]
    async fn only_the_right_password_is_allowed() {
        let users = users(4, &[("alice", "alice123"), ("bob", "pass:word"), ("carol", "")]);
        let passwords = Passwords::default();
        // Asked again, each is answered from what is kept.
        for _ in 0..2 {
            for (credentials, expected) in [
                ("alice:alice123", Checked::Allowed),
                ("bob:pass:word", Checked::Allowed),
                ("carol:", Checked::Allowed),
                ("alice:alice124", Checked::Denied),
                ("alice:pass:word", Checked::Denied),
                ("bob:alice123", Checked::Denied),
                ("nobody:alice123", Checked::Denied),
                ("nobody:pass:word", Checked::Denied),
                ("nobody:", Checked::Denied),
                (":alice123", Checked::Denied),
                ("alice", Checked::Denied),
                ("", Checked::Denied),
            ] {
                assert_eq!(check(&passwords, &users, credentials).await, expected, "{credentials}");
            }
        }
    }

    #[tokio::test]
    async fn headers_that_are_no_credentials_are_denied_at_once() {
        let users = users(4, &[("a", "b")]);
        let passwords = Passwords::default();
        assert_eq!(passwords.check(&users, None, Origin::Local, || ()).await, Checked::Denied);
        for (text, expected) in [
            ("Basic YTpi", Checked::Allowed),
            ("bASIC YTpi", Checked::Allowed),
            ("Basic YTpj", Checked::Denied),
            ("Bearer YTpi", Checked::Denied),
            ("Basic", Checked::Denied),
            ("Basic ", Checked::Denied),
            ("Basic a:b", Checked::Denied),
            ("Basic YQ==", Checked::Denied),
            ("\u{e9}asic YTpi", Checked::Denied),
        ] {
            let header = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(
                passwords.check(&users, Some(&header), Origin::Local, || ()).await,
                expected,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_new_hash_ends_what_was_known_of_the_old_one() {
        let passwords = Passwords::default();
        let before = users(4, &[("a", "old")]);
        assert_eq!(check(&passwords, &before, "a:old").await, Checked::Allowed);
        assert_eq!(check(&passwords, &before, "a:new").await, Checked::Denied);
        let after = users(4, &[("a", "new")]);
        assert_eq!(check(&passwords, &after, "a:old").await, Checked::Denied);
        assert_eq!(check(&passwords, &after, "a:new").await, Checked::Allowed);
    }

    #[tokio::test]
    async fn parts_of_what_is_known_cannot_be_shifted() {
        let passwords = Passwords::default();
        let parts: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]];
        let prints: BTreeSet<_> = parts.iter().map(|it| passwords.fingerprint(it)).collect();
        assert_eq!(prints.len(), 4);
        // The key is not the same in another process.
        assert!(!prints.contains(&Passwords::default().fingerprint(&[b"ab", b"c"])));
    }

    #[tokio::test]
    async fn an_unknown_user_costs_a_hash_and_is_denied_even_if_it_matches() {
        static HASHES: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let users = users(4, &[("a", "b"), ("c", "d")]);
        let passwords = Passwords::new(|_, hash| {
            HASHES.lock().unwrap().push(hash.to_owned());
            true
        });
        for name in ["x", "y", "x", "z", "\u{e9}"] {
            assert_eq!(check(&passwords, &users, &format!("{name}:b")).await, Checked::Denied);
        }
        let hashes = HASHES.lock().unwrap().clone();
        // What was denied before is known.
        assert_eq!(hashes.len(), 4);
        assert!(hashes.iter().all(|it| users.values().any(|user| user.reveal() == it)));
        assert_eq!(check(&passwords, &users, "a:b").await, Checked::Allowed);
    }

    /// Passwords of which one is right, and the check of any other never ends.
    fn stuck() -> Passwords {
        Passwords::new(|password, _| {
            let is_right = password == b"right";
            if !is_right {
                loop {
                    thread::park();
                }
            }
            is_right
        })
    }

    /// Starts a check.
    fn begin(
        passwords: &Passwords,
        users: &Users,
        text: &str,
        from: Origin,
    ) -> JoinHandle<Checked> {
        let (passwords, users, header) = (passwords.clone(), users.clone(), header(text));
        tokio::spawn(async move { passwords.check(&users, Some(&header), from, || ()).await })
    }

    /// Lets every task run until it waits.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// Starts a check that never ends, and waits until it has begun.
    async fn occupy(passwords: &Passwords, users: &Users) -> JoinHandle<Checked> {
        let stuck = begin(passwords, users, "a:stuck", Origin::Local);
        yield_now().await;
        while passwords.lock().queue.len > 0 {
            yield_now().await;
        }
        stuck
    }

    #[tokio::test]
    async fn known_passwords_do_not_wait_for_a_flood() {
        let users = users(4, &[("a", "b")]);
        let passwords = stuck();
        assert_eq!(check(&passwords, &users, "a:right").await, Checked::Allowed);
        let stuck = occupy(&passwords, &users).await;
        let flood: Vec<_> = (0..2 * IN_ALL)
            .map(|number| {
                let from = address(u8::try_from(number % 256).unwrap());
                begin(&passwords, &users, &format!("a:{number}"), from)
            })
            .collect();
        settle().await;
        let known = timeout(Duration::from_millis(500), check(&passwords, &users, "a:right"));
        assert_eq!(known.await, Ok(Checked::Allowed));
        // The others wait, or are told to come back.
        assert_eq!(check(&passwords, &users, "a:unknown").await, Checked::Busy);
        assert_eq!(flood.iter().filter(|it| it.is_finished()).count(), IN_ALL);
        assert!(!stuck.is_finished());
    }

    #[tokio::test]
    async fn equal_checks_share_one_result() {
        let users = users(4, &[("a", "b")]);
        let passwords = stuck();
        let stuck = occupy(&passwords, &users).await;
        let equal: Vec<_> = ["a:stuck", "a:right"]
            .into_iter()
            .cycle()
            .take(4 * PER_ORIGIN)
            .map(|text| begin(&passwords, &users, text, Origin::Local))
            .collect();
        settle().await;
        assert_eq!(passwords.lock().queue.len, 1);
        assert!(equal.iter().all(|it| !it.is_finished()) && !stuck.is_finished());
    }

    #[test]
    fn origins_take_turns() {
        let mut queue = Queue::default();
        for number in 0..u8::try_from(PER_ORIGIN).unwrap() {
            assert!(queue.push(address(1), job(number)).is_ok());
        }
        assert!(queue.push(address(1), job(99)).is_err());
        assert!(queue.push(address(2), job(100)).is_ok());
        assert!(queue.push(Origin::Local, job(101)).is_ok());
        let order: Vec<_> = (0..5).map(|_| queue.pop().unwrap().fingerprint[0]).collect();
        assert_eq!(order, [0, 100, 101, 1, 2]);
        assert_eq!(queue.len, PER_ORIGIN + 2 - 5);
        while queue.pop().is_some() {}
        assert!(queue.waiting.is_empty() && queue.turns.is_empty() && queue.len == 0);
    }

    #[test]
    fn old_results_are_forgotten() {
        let mut kept = Kept::default();
        for number in 0..=u8::try_from(KEPT).unwrap() {
            kept.insert([number; 32]);
            kept.insert([number; 32]);
        }
        assert_eq!((kept.known.len(), kept.order.len()), (KEPT, KEPT));
        assert!(!kept.known.contains(&[0; 32]) && kept.known.contains(&[1; 32]));
    }
}
