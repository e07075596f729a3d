//! Copying between a pipe of the container and a stream of its client: one task a stream, which holds a buffer only while the
//! reader of the other side is slow. A full reader stops the copying, and with it the writer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::pipe::pipe;
use super::sink::Sink;
use crate::error::{Error, Result};
use crate::sys::log;

/// The most that is copied at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// The most that an error repeats of what a failed program wrote, in bytes.
const MAX_UNREAD: usize = 2048;

/// An output whose process is about to be made: nothing is copied yet.
#[derive(Debug)]
pub(crate) struct Outlet(Pump);

impl Outlet {
    /// Makes the pipe for a process's output; the writing end is returned.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn new(to: Sink) -> Result<(OwnedFd, Self)> {
        let (read, write) = pipe()?;
        let from =
            Receiver::from_owned_fd(read).map_err(|error| Error::io("read a pipe", error))?;
        Ok((write, Self(Pump::new(from, to))))
    }

    /// The beginning of what has been written so far, for a process that could not be made.
    pub(crate) fn unread(&self) -> Option<String> {
        let mut buffer = [0; MAX_UNREAD];
        let count = rustix::io::read(&self.0.from, &mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Starts copying.
    pub(crate) fn start(self) -> Copying {
        let (end, ending) = oneshot::channel();
        let (drained, is_drained) = oneshot::channel();
        Copying {
            task: tokio::spawn(copy(self.0, ending, drained)),
            end: Some(end),
            drained: is_drained,
        }
    }
}

/// Output on its way to where it goes.
#[derive(Debug)]
pub(crate) struct Copying {
    task: JoinHandle<()>,
    /// Dropped when the process is deleted.
    end: Option<oneshot::Sender<()>>,
    /// Its sender is dropped when all is copied.
    drained: oneshot::Receiver<()>,
}

impl Copying {
    /// Notes that the process is deleted: a reader that is gone is not waited for any more.
    pub(crate) fn end(&mut self) {
        self.end = None;
    }

    /// Waits until all that the process has written is copied, but not after `deadline`: the reader may have stopped.
    pub(crate) async fn drain(&mut self, deadline: Instant) {
        self.end();
        // An error: the sender is dropped, nothing is ever sent.
        let _ = timeout_at(deadline, &mut self.drained).await;
    }

    /// Goes on for a bounded time for processes that outlive the deleted one and hold its streams. Then the streams are closed.
    pub(crate) fn linger(mut self, limit: Duration) {
        if !self.task.is_finished() {
            tokio::spawn(async move {
                // Ended or not, it is dropped now.
                let _ = timeout(limit, &mut self.task).await;
            });
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy(mut pump: Pump, mut ending: oneshot::Receiver<()>, drained: oneshot::Sender<()>) {
    let mut ended = false;
    let mut drained = Some(drained);
    loop {
        if ended && pump.is_empty() {
            drained = None;
        }
        tokio::select! {
            biased;
            more = pump.step() => match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    log::debug!("read a container's output: {error}");
                    break;
                }
            },
            _ = &mut ending, if !ended => {
                ended = true;
                pump.to.need_reader();
            }
        }
    }
    // Closes the stream before anybody learns that all is copied.
    drop(pump);
    drop(drained);
}

/// Input on its way to a process.
#[derive(Debug)]
pub(super) struct Feeding(JoinHandle<()>);

impl Feeding {
    /// Starts copying. The pipe is closed when the input ends.
    pub(super) fn start(from: Receiver, to: Sender) -> Self {
        let mut pump = Pump::new(from, Sink::Pipe(to));
        Self(tokio::spawn(async move {
            while let Ok(true) = pump.step().await {
                // Nobody reads: then the client is to see that nobody does.
                if matches!(pump.to, Sink::Null) {
                    break;
                }
            }
        }))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One direction.
#[derive(Debug)]
struct Pump {
    from: Receiver,
    to: Sink,
    /// What was read and did not find room yet.
    rest: Vec<u8>,
}

impl Pump {
    fn new(from: Receiver, to: Sink) -> Self {
        Self {
            from,
            to,
            rest: Vec::new(),
        }
    }

    /// Waits for one side and copies what it has or takes; `false` at the end of the input. Can be given up at any time: what was
    /// read is written or kept.
    async fn step(&mut self) -> io::Result<bool> {
        if self.rest.is_empty() {
            self.from.readable().await?;
            return self.pass();
        }
        self.to.writable().await;
        let rest = std::mem::take(&mut self.rest);
        self.write(&rest);
        Ok(true)
    }

    fn pass(&mut self) -> io::Result<bool> {
        // On the stack, so that a stream without data has no buffer.
        let mut buffer = [0; CHUNK];
        match self.from.try_read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.write(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let written = self.to.try_write(bytes);
        if written < bytes.len() {
            self.rest = bytes[written..].to_vec();
        }
    }

    /// Whether all that has been written so far has been copied.
    fn is_empty(&self) -> bool {
        self.rest.is_empty() && ioctl_fionread(&self.from).is_ok_and(|unread| unread == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::fixtures::fifo;
    use super::super::target::Target;
    use super::*;
    use rustix::fs::{Mode, OFlags, fchmod, fcntl_setfl, ftruncate};
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    fn open(target: &Target) -> (File, Copying) {
        let (write, outlet) = Outlet::new(Sink::open(target, None).unwrap()).unwrap();
        (write.into(), outlet.start())
    }

    fn to_fifo(path: &str) -> (File, Copying) {
        open(&Target::Path(path.to_owned()))
    }

    /// A client that reads the FIFO without waiting for what is not there.
    fn reader(path: &str) -> File {
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        options.open(path).unwrap()
    }

    /// Reads `count` bytes, with the copying going on.
    async fn read(reader: &mut File, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 8192];
        let reading = async {
            while all.len() < count {
                match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => all.extend_from_slice(&buffer[..got]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(LONG, reading).await.unwrap();
        all
    }

    /// Writes until nothing more is taken, and returns how much was.
    async fn fill(write: &mut File) -> usize {
        fcntl_setfl(&*write, OFlags::NONBLOCK).unwrap();
        let (mut taken, mut full) = (0, 0);
        while full < 20 {
            match write.write(&[b'x'; 1000]) {
                Ok(count) => (taken, full) = (taken + count, 0),
                Err(_) => {
                    full += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        taken
    }

    #[tokio::test]
    async fn reaches_the_pipe_and_not_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let before = std::fs::metadata(&path).unwrap().permissions();
        let (mut write, mut copying) = open(&Target::Path(path.display().to_string()));
        assert!(ftruncate(&write, 0).is_err());
        fchmod(&write, Mode::from(0o777)).unwrap();
        // More than a pipe and the buffer hold.
        let text = "line\n".repeat(60_000);
        let all = text.clone();
        let writer = std::thread::spawn(move || write.write_all(all.as_bytes()));
        while !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        copying.drain(Instant::now() + LONG).await;
        let copied = std::fs::read_to_string(&path).unwrap();
        assert!(copied == format!("before\n{text}"), "{}", copied.len());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), before);
    }

    #[tokio::test]
    async fn stops_the_writer_while_nobody_reads_and_loses_nothing() {
        let (_directory, path) = fifo();
        let (mut write, _copying) = to_fifo(&path);
        let taken = fill(&mut write).await;
        // The pipe, the FIFO and what is between.
        assert!((100_000..200_000).contains(&taken), "{taken}");
        let mut reader = reader(&path);
        assert_eq!(read(&mut reader, taken).await.len(), taken);
        write.write_all(b"more").unwrap();
        assert_eq!(read(&mut reader, 4).await, b"more");
        drop(write);
        // The end.
        assert_eq!(read(&mut reader, 1).await, b"");
    }

    #[tokio::test]
    async fn all_that_was_written_arrives_before_the_deletion_returns() {
        let (_directory, path) = fifo();
        for _ in 0..50 {
            let (mut write, mut copying) = to_fifo(&path);
            let mut reader = reader(&path);
            write.write_all(b"last words").unwrap();
            // A process that outlives the writer holds the pipe.
            copying.drain(Instant::now() + LONG).await;
            let mut text = [0; 10];
            assert_eq!(reader.read(&mut text).unwrap(), 10);
            assert_eq!(&text, b"last words");
        }
    }

    #[tokio::test]
    async fn is_closed_a_while_after_the_deletion() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        let mut reader = reader(&path);
        copying.drain(Instant::now() + LONG).await;
        copying.linger(Duration::from_millis(300));
        write.write_all(b"late").unwrap();
        assert_eq!(read(&mut reader, 4).await, b"late");
        // The end, although the pipe is open.
        assert_eq!(read(&mut reader, 1).await, b"");
        assert!(write.write_all(b"too late").is_err());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_does_not_hold_up_the_deletion() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        fill(&mut write).await;
        let from = Instant::now();
        copying.drain(Instant::now() + LONG).await;
        assert!(from.elapsed() < LONG / 4, "{:?}", from.elapsed());
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_up_the_deletion_no_longer_than_said() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        let _stalled = reader(&path);
        fill(&mut write).await;
        let from = Instant::now();
        let limit = Duration::from_millis(300);
        copying.drain(Instant::now() + limit).await;
        assert!(
            (limit..LONG / 4).contains(&from.elapsed()),
            "{:?}",
            from.elapsed()
        );
    }
}
