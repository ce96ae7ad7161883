//! A long line: every frame that comes in at one end goes out at the other after a fixed delay. Two packet sockets and
//! a clock, for kernels without a delaying queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

/// Longest frame: offloads are off at both ends.
const FRAME_LEN_MAX: usize = 9_216;
/// Frames under way in one direction; what comes beyond is lost, as on any line.
const FRAMES_MAX: usize = 4_096;
/// Between looks at whether the line is taken down.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A line in service; taken down when dropped.
#[derive(Debug)]
pub struct Line {
    is_down: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Line {
    /// Joins two network devices of the calling thread's namespace, `one_way` apart.
    pub fn start(near: &str, far: &str, one_way: Duration) -> io::Result<Self> {
        let is_down = Arc::new(AtomicBool::new(false));
        let ((near_out, near_in), (far_out, far_in)) = (open(near)?, open(far)?);
        let mut line = Self { is_down, threads: Vec::new() };
        line.carry(near_in, far_out, one_way)?;
        line.carry(far_in, near_out, one_way)?;
        Ok(line)
    }

    fn carry(
        &mut self,
        mut from: Box<dyn DataLinkReceiver>,
        mut to: Box<dyn DataLinkSender>,
        one_way: Duration,
    ) -> io::Result<()> {
        let (enter, under_way): (SyncSender<(Instant, Vec<u8>)>, Receiver<_>) = sync_channel(FRAMES_MAX);
        let is_down = Arc::clone(&self.is_down);
        self.threads.push(std::thread::Builder::new().name("line-in".into()).spawn(move || {
            while !is_down.load(Ordering::Relaxed) {
                // An error is the end of the wait.
                let Ok(frame) = from.next() else { continue };
                // A full line loses the frame.
                let _lost = enter.try_send((Instant::now() + one_way, frame.to_vec()));
            }
        })?);
        self.threads.push(std::thread::Builder::new().name("line-out".into()).spawn(move || {
            // Ends with the thread that fills it.
            for (due, frame) in under_way {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let _sent = to.send_to(&frame, None);
            }
        })?);
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.is_down.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic inside has been printed already.
            let _panicked = thread.join();
        }
    }
}

type Ends = (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>);

fn open(device: &str) -> io::Result<Ends> {
    let config = Config {
        read_timeout: Some(LOOK_EVERY),
        read_buffer_size: FRAME_LEN_MAX,
        write_buffer_size: FRAME_LEN_MAX,
        ..Config::default()
    };
    let is_it = |found: &NetworkInterface| found.name == device;
    let interface = pnet_datalink::interfaces()
        .into_iter()
        .find(is_it)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))?;
    match pnet_datalink::channel(&interface, config)? {
        Channel::Ethernet(out, input) => Ok((out, input)),
        _ => Err(io::Error::other(format!("{device} carries no Ethernet"))),
    }
}
