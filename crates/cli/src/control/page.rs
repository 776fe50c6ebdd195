//! Lists that come in pages.

use kasbah_proto::policy::{PageRequest, PageResponse};

use crate::exit::Failure;

const PAGE_SIZE: i32 = 300;

/// Which part of a list.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PageArguments {
    /// At most this many; everything there is without it
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    limit: Option<i32>,
    /// Skip this many
    #[arg(
        long,
        short,
        value_name = "N",
        default_value_t = 0,
        value_parser = clap::value_parser!(i32).range(0..)
    )]
    offset: i32,
}

impl PageArguments {
    /// Asks for one page after the other until this part of the list is complete.
    pub(crate) async fn collect<T>(
        &self,
        mut ask: impl AsyncFnMut(PageRequest) -> Result<(Vec<T>, Option<PageResponse>), Failure>,
    ) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut left = self.limit;
        let mut offset = self.offset;
        loop {
            let limit = left.unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            let (page, answer) = ask(PageRequest { limit, offset }).await?;
            items.extend(page);
            left = left.map(|left| left - limit);
            match answer.map_or(0, |answer| answer.next_offset) {
                0 => return Ok(items),
                _ if left == Some(0) => return Ok(items),
                next if next > offset => offset = next,
                _ => return Err(Failure::not_fine("the pages of the server go in circles")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists numbers as a server does; returns them, and the pages that were asked for.
    async fn listed(limit: Option<i32>, offset: i32, total: i32) -> (Vec<i32>, Vec<(i32, i32)>) {
        let mut asked = Vec::new();
        let items = PageArguments { limit, offset }
            .collect(async |page| {
                asked.push((page.limit, page.offset));
                let end = (page.offset + page.limit).min(total);
                let next_offset = if end < total { end } else { 0 };
                let items = (page.offset..end).collect();
                Ok((items, Some(PageResponse { next_offset, ..Default::default() })))
            })
            .await
            .unwrap();
        (items, asked)
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let (items, asked) = listed(None, 0, 650).await;
        assert_eq!(items, (0..650).collect::<Vec<_>>());
        assert_eq!(asked, [(300, 0), (300, 300), (300, 600)]);
        assert!(listed(None, 0, 0).await.0.is_empty());
        assert_eq!(listed(None, 640, 650).await.0, (640..650).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_limit_is_kept_across_pages() {
        let (items, asked) = listed(Some(310), 5, 650).await;
        assert_eq!(items, (5..315).collect::<Vec<_>>());
        assert_eq!(asked, [(300, 5), (10, 305)]);
        assert_eq!(listed(Some(300), 0, 650).await.1, [(300, 0)]);
    }

    #[tokio::test]
    async fn pages_that_go_in_circles_are_refused() {
        let page = PageResponse { next_offset: 300, ..Default::default() };
        let circle = PageArguments { limit: None, offset: 0 }
            .collect(async |_| Ok((vec![()], Some(page))))
            .await;
        assert!(circle.is_err());
    }
}
