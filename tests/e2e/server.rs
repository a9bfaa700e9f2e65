//! The service that the end-to-end tests deploy: standard library only, compiled by the tests themselves.
//! `GET /` answers the content of `/version`, everything else 200. It says on stdout what it is asked for.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
};

fn main() {
    let version = std::fs::read_to_string("/version").expect("the image has /version");
    let listener = TcpListener::bind("0.0.0.0:8080").expect("port 8080 is free");
    println!("service {} is up", version.trim());
    for stream in listener.incoming().flatten() {
        let version = version.clone();
        std::thread::spawn(move || serve(stream, version.trim()));
    }
}

fn serve(mut stream: TcpStream, version: &str) {
    let Ok(read) = stream.try_clone() else { return };
    let mut lines = BufReader::new(read).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let mut close = false;
        for header in lines.by_ref() {
            close |= header.eq_ignore_ascii_case("connection: close");
            if header.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        if path != "/" {
            println!("asked for {path}");
        }
        let body = format!("{version}\n");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n", body.len(), if close { "close" } else { "keep-alive" });
        if stream.write_all((answer + if request.starts_with("HEAD") { "" } else { &body }).as_bytes()).is_err() || close {
            return;
        }
    }
}
