//! What went over a connection and when, seen below TLS or HTTP.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first octets of an answer that are kept: by then another protocol has told which it is.
const HEAD: usize = 48;

/// Octets and times since the last [`Meter::mark`].
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// When the first octet came.
    pub first_in: Option<Instant>,
    /// Octets that came.
    pub octets_in: u64,
    /// Octets that went.
    pub octets_out: u64,
    /// The first of those that came.
    pub head: Vec<u8>,
}

/// The marks of one connection.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Marks>);

impl Meter {
    /// Begins anew.
    pub fn mark(&self) {
        *self.lock() = Marks::default();
    }

    /// What there is since the mark.
    pub fn marks(&self) -> Marks {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn came(&self, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        let mut marks = self.lock();
        marks.first_in.get_or_insert_with(Instant::now);
        marks.octets_in += octets.len() as u64;
        let room = HEAD.saturating_sub(marks.head.len()).min(octets.len());
        marks.head.extend_from_slice(&octets[..room]);
    }
}

/// A connection that is measured.
pub struct Metered<I> {
    io: I,
    meter: Arc<Meter>,
}

impl<I> Metered<I> {
    pub fn new(io: I, meter: Arc<Meter>) -> Self {
        Self { io, meter }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.meter.came(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, octets))?;
        self.meter.lock().octets_out += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn octets_both_ways_are_counted_and_the_first_ones_kept() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let meter = Arc::new(Meter::default());
        let mut metered = Metered::new(ours, Arc::clone(&meter));
        metered.write_all(b"question").await.unwrap();
        theirs.write_all(&[b'x'; 100]).await.unwrap();
        assert!(meter.marks().first_in.is_none(), "nothing was read yet");
        let mut heard = [0; 100];
        metered.read_exact(&mut heard).await.unwrap();
        let marks = meter.marks();
        assert_eq!((marks.octets_out, marks.octets_in), (8, 100));
        assert_eq!(marks.head, [b'x'; HEAD]);
        assert!(marks.first_in.is_some());
        meter.mark();
        assert_eq!(meter.marks().octets_in, 0);
    }
}
