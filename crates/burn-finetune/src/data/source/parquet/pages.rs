use parquet::basic::Encoding;
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
    /// A page that was looked at and not taken yet.
    next: Option<Page>,
    has_dictionary: bool,
}

impl<R: PageReader> Pages<R> {
    /// Returns the pages that `inner` reads, unpacked if they come from the file as they are, `in_zstd`.
    pub fn new(inner: R, in_zstd: bool) -> Self {
        Self {
            inner,
            in_zstd,
            next: None,
            has_dictionary: false,
        }
    }

    fn read(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.inner.get_next_page()? else {
            return Ok(None);
        };
        let page = if self.in_zstd { unpacked(page)? } else { page };
        match &page {
            // The decoder makes room for as many values as the page says it has.
            Page::DictionaryPage {
                buf, num_values, ..
            } if *num_values as usize > buf.len() => {
                return Err(damaged("it has more values than bytes"));
            }
            Page::DictionaryPage { .. } => self.has_dictionary = true,
            Page::DataPageV2 { buf, .. } if levels(&page) > buf.len() => {
                return Err(damaged("it is too short"));
            }
            Page::DataPage { .. } | Page::DataPageV2 { .. } => {}
        }
        let is_of_dictionary = matches!(
            page.encoding(),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
        );
        if is_of_dictionary && !self.has_dictionary {
            return Err(damaged("its dictionary is missing"));
        }
        Ok(Some(page))
    }
}

impl<R: PageReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        match self.next.take() {
            Some(page) => Ok(Some(page)),
            None => self.read(),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        if self.next.is_none() {
            self.next = self.read()?;
        }
        Ok(self.next.as_ref().map(|page| {
            let is_dict = matches!(page, Page::DictionaryPage { .. });
            let num_rows = match page {
                Page::DataPageV2 { num_rows, .. } => Some(*num_rows as usize),
                Page::DataPage { .. } | Page::DictionaryPage { .. } => None,
            };
            PageMetadata {
                num_rows,
                num_levels: (!is_dict).then(|| page.num_values() as usize),
                is_dict,
            }
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.get_next_page().map(drop)
    }
}

impl<R: PageReader> Iterator for Pages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// Returns the bytes of a page's levels where they come before its values unpacked.
fn levels(page: &Page) -> usize {
    match page {
        Page::DataPageV2 {
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => *def_levels_byte_len as usize + *rep_levels_byte_len as usize,
        Page::DataPage { .. } | Page::DictionaryPage { .. } => 0,
    }
}

/// Returns the page with its values unpacked. Levels of pages of the second version are not packed.
fn unpacked(mut page: Page) -> Result<Page> {
    let start = levels(&page);
    let buf = match &mut page {
        Page::DataPageV2 {
            is_compressed: false,
            ..
        } => return Ok(page),
        Page::DataPage { buf, .. }
        | Page::DictionaryPage { buf, .. }
        | Page::DataPageV2 { buf, .. } => buf,
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
