//! An access log that a test reads.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is written to the log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Waits for the `number`th line of the access log.
    pub(crate) async fn line(&self, number: usize) -> serde_json::Value {
        let find = async {
            loop {
                let bytes = self.0.lock().unwrap().clone();
                let text = String::from_utf8(bytes).unwrap();
                let mut whole = text
                    .split_inclusive('\n')
                    .filter(|line| line.ends_with('\n'));
                if let Some(line) = whole.nth(number) {
                    return serde_json::from_str(line).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), find)
            .await
            .expect("a line")
    }
}
