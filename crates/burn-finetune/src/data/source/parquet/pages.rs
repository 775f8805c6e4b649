use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use ruzstd::decoding::StreamingDecoder;
use std::fmt::Display;
use std::io::Read;

/// Most bytes of a page, which writers keep to a megabyte or so.
const MOST: u64 = 1 << 31;

/// The pages of a column, held against what they promise.
pub struct Pages<R> {
    inner: R,
    in_zstd: bool,
}

impl<R: PageReader> Pages<R> {
    /// Returns the pages that `inner` reads, unpacked if they come from the file as they are, `in_zstd`.
    pub fn new(inner: R, in_zstd: bool) -> Self {
        Self { inner, in_zstd }
    }
}

impl<R: PageReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.inner.get_next_page()? else {
            return Ok(None);
        };
        let page = if self.in_zstd { unpacked(page)? } else { page };
        // The decoder makes room for as many values as the page says it has.
        if let Page::DictionaryPage {
            buf, num_values, ..
        } = &page
            && *num_values as usize > buf.len()
        {
            return Err(damaged("it has more values than bytes"));
        }
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl<R: PageReader> Iterator for Pages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// Returns the page with its values unpacked. Levels of pages of the second version are not packed.
fn unpacked(mut page: Page) -> Result<Page> {
    let (buf, start) = match &mut page {
        Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
        Page::DataPageV2 {
            is_compressed: false,
            ..
        } => return Ok(page),
        Page::DataPageV2 {
            buf,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => (
            buf,
            *def_levels_byte_len as usize + *rep_levels_byte_len as usize,
        ),
    };
    let Some((levels, packed)) = buf.split_at_checked(start) else {
        return Err(damaged("it is too short"));
    };
    let mut bytes = levels.to_vec();
    // A page of nulls has no values.
    if !packed.is_empty() {
        let decoder = StreamingDecoder::new(packed).map_err(damaged)?;
        let unpacked = decoder.take(MOST).read_to_end(&mut bytes);
        unpacked.map_err(damaged)?;
    }
    *buf = bytes.into();
    Ok(page)
}

fn damaged(reason: impl Display) -> ParquetError {
    ParquetError::General(format!("a page is damaged: {reason}"))
}
