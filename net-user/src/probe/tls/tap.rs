//! What comes in of a connection, looked at on its way to TLS: the first octets, how many, and when.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many of the first octets are kept: what speaks another protocol tells which by then.
const KEPT: usize = 48;

/// What came in.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The first octets, at most [`KEPT`].
    pub first: Vec<u8>,
    /// How many octets in all.
    pub octets: u64,
    /// When the first came.
    pub at: Option<Instant>,
}

/// Octets that are looked at while they are read.
pub(super) struct Tap<S> {
    inner: S,
    seen: Arc<Mutex<Seen>>,
}

/// A look at a [`Tap`] that someone else owns.
#[derive(Clone)]
pub(super) struct View(Arc<Mutex<Seen>>);

impl View {
    /// What came in so far.
    pub fn seen(&self) -> Seen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

impl<S> Tap<S> {
    /// Around a connection.
    pub fn new(inner: S) -> (Self, View) {
        let seen = Arc::<Mutex<Seen>>::default();
        let view = View(seen.clone());
        (Self { inner, seen }, view)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.at.get_or_insert_with(Instant::now);
            seen.octets += new.len() as u64;
            let wanted = KEPT.saturating_sub(seen.first.len()).min(new.len());
            seen.first.extend(new.iter().take(wanted));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
