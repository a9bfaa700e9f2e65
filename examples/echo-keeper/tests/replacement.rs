//! The three commands of the README: a client talks to one process, and then to the next, over one connection.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

fn keeper(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_echo-keeper"))
        .env("PORTER_INET_SOCKET", folder.join("echo.sock"))
        .env("PORTER_HANDOVER_SOCKET", folder.join("handover.sock"))
        .env("ECHO_TCP", "127.0.0.1:0")
        .env_remove("PORTER_CONTROL_SOCKET")
        .spawn()
        .expect("a built example")
}

/// Ends with the test, also with one that fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut try_it: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = try_it() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_numbers_go_on_in_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Ended(keeper(folder.path()));
    let stream = until("the first process", || {
        UnixStream::connect(folder.path().join("echo.sock")).ok()
    });
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut say = |text: &str| {
        (&stream).write_all(format!("{text}\n").as_bytes()).unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(say("one"), "1: one");
    (&stream).write_all(b"two, ").unwrap();

    let _second = Ended(keeper(folder.path()));
    let status = until("the first process's end", || first.0.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(say("in two halves"), "2: two, in two halves");
    assert_eq!(say("three"), "3: three");
}

#[test]
fn it_is_as_small_as_its_readme_says() {
    let lines = include_str!("../src/main.rs").lines().count();
    assert!(lines < 150, "{lines} lines");
}
