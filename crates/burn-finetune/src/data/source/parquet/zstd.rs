use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;

/// Most bytes of a page, which writers keep to a megabyte or so.
const MOST: u64 = 1 << 31;

/// Unpacks the pages that another reader takes from the file as they are.
pub struct Pages<R> {
    packed: R,
}

impl<R: PageReader> Pages<R> {
    pub fn new(packed: R) -> Self {
        Self { packed }
    }
}

impl<R: PageReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.packed.get_next_page()?;
        page.map(unpacked).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.packed.at_record_boundary()
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
    let damaged =
        |reason: String| ParquetError::General(format!("a page in zstd is damaged: {reason}"));
    let Some((levels, packed)) = buf.split_at_checked(start) else {
        return Err(damaged("it is too short".to_owned()));
    };
    let mut bytes = levels.to_vec();
    // A page of nulls has no values.
    if !packed.is_empty() {
        let decoder = StreamingDecoder::new(packed).map_err(|error| damaged(error.to_string()))?;
        decoder
            .take(MOST)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
    }
    *buf = bytes.into();
    Ok(page)
}
