//! A connection takes turns with the others.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read from a connection before the others have their turn. That is 1800 frames of the
/// smallest that HTTP/2 has, each of them work: whoever sends nothing else would hold a worker for as
/// long as there is something to read.
const TURN: usize = 16 * 1024;

pin_project_lite::pin_project! {
    /// A stream that lets others go first whenever a turn's worth was read from it.
    pub(crate) struct Fair<S> {
        #[pin]
        stream: S,
        // What was read since others had their turn.
        read: usize,
    }
}

impl<S> Fair<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead> AsyncRead for Fair<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if *this.read >= TURN {
            *this.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(result) = this.stream.poll_read(context, buffer) else {
            *this.read = 0;
            return Poll::Pending;
        };
        *this.read += buffer.filled().len() - before;
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite> AsyncWrite for Fair<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Waker};

    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn whoever_sends_without_end_lets_others_go_first() {
        let mut stream = pin!(Fair::new(tokio::io::repeat(1).take(TURN as u64 * 3)));
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = vec![0; TURN / 4];
        let mut events = Vec::new();
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match stream.as_mut().poll_read(&mut context, &mut buffer) {
                Poll::Pending => events.push(0),
                Poll::Ready(result) => {
                    result.unwrap();
                    match buffer.filled().len() {
                        0 => break,
                        read => events.push(read),
                    }
                }
            }
        }
        let read = [TURN / 4; 4];
        assert_eq!(events, [&read[..], &[0], &read, &[0], &read, &[0]].concat());
    }
}
