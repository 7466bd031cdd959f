//! A bucket to test with: moto's S3 server (tests/s3/serve) as a process.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use vigie::blobs::Blobs;

/// moto's S3 server.
pub struct S3 {
    child: Child,
    pub endpoint: String,
}

impl S3 {
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/serve");
        let mut command = Command::new(script);
        command.arg(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let endpoint = loop {
            let line = lines.next().unwrap_or_else(|| panic!("no server: {said:?}")).unwrap();
            match line.split_once("Running on ") {
                Some((_, endpoint)) => break endpoint.trim().to_owned(),
                None => said.push(line),
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { child, endpoint };
        server.request("PUT", "/store");
        server
    }

    pub fn bucket(&self, path: &str) -> Blobs {
        Blobs::open_with(&format!("s3://{path}"), &settings(&self.endpoint)).unwrap()
    }

    pub fn request(&self, method: &str, path: &str) -> String {
        let address = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a store on that server is opened with, as object_store's variables.
pub fn settings(endpoint: &str) -> Vec<(String, String)> {
    let settings = [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
