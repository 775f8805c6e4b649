/// The pages of a column.
mod pages;

use super::open::{Fault, Record};
use super::wanted::Wanted;
use crate::error::{Place, RowProblem};
use crate::template::object;
use minijinja::value::Value;
use pages::Pages;
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::RowGroupReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::{ReaderIter, RowIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use std::fs::File;
use std::sync::Arc;
use tensor_files::catch_panic;

/// Values of a column that are decoded at once.
const BATCH: usize = 64;

/// The rows of a Parquet file, of the columns that are read.
pub struct Parquet {
    file: Arc<File>,
    metadata: ParquetMetaData,
    schema: SchemaDescPtr,
    /// The row groups that are still to come begin here.
    group: usize,
    rows: Option<ReaderIter>,
    row: usize,
}

impl Parquet {
    /// Opens a file, and returns with its rows the columns that are not read.
    ///
    /// # Errors
    /// A file that is damaged, holds no column that makes a row, or is packed by a codec that is not there.
    pub fn open(file: File, columns: &dyn Wanted) -> Result<(Self, Vec<String>), Fault> {
        let file = Arc::new(file);
        let metadata = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&*file))?;
        let root = metadata.file_metadata().schema_descr().root_schema();
        let names = root
            .get_fields()
            .iter()
            .map(|field| field.name().to_owned());
        let names: Vec<String> = names.collect();
        if let Err(problem) = columns.check(&names) {
            return Err(Fault::File(problem.to_string()));
        }
        let read = columns.names();
        let (fields, others): (Vec<_>, Vec<_>) = root
            .get_fields()
            .iter()
            .cloned()
            .partition(|field| read.contains(&field.name()));
        for field in &fields {
            check(field, true).map_err(|what| {
                Fault::File(format!("the column {:?} is not read: {what}", field.name()))
            })?;
        }
        let projected = Type::group_type_builder(root.name())
            .with_fields(fields)
            .build();
        let projected = projected.map_err(damaged)?;
        let parquet = Self {
            schema: Arc::new(SchemaDescriptor::new(Arc::new(projected))),
            file,
            metadata,
            group: 0,
            rows: None,
            row: 0,
        };
        let others = others.iter().map(|field| field.name().to_owned());
        Ok((parquet, others.collect()))
    }

    /// Reads the next row; `None` behind the last.
    ///
    /// # Errors
    /// A row that cannot be used, behind which there may be more, and what ends the file.
    pub fn next_record(&mut self) -> Result<Option<Record>, Fault> {
        loop {
            if let Some(rows) = &mut self.rows
                && let Some(row) = guarded(|| rows.next().transpose())?
            {
                self.row += 1;
                let place = Place::Row(self.row);
                let value = object_of(&row).map_err(|problem| Fault::Row(place, problem))?;
                return Ok(Some(Record { place, value }));
            }
            if self.group == self.metadata.num_row_groups() {
                return Ok(None);
            }
            let group = Group {
                file: self.file.clone(),
                metadata: self.metadata.row_group(self.group),
            };
            let builder = TreeBuilder::new().with_batch_size(BATCH);
            let schema = self.schema.clone();
            self.rows = Some(guarded(|| builder.as_iter(schema, &group))?);
            self.group += 1;
        }
    }
}

/// A row group whose pages in zstd are decoded here.
struct Group<'a> {
    file: Arc<File>,
    metadata: &'a RowGroupMetaData,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.metadata.num_columns()
    }

    fn get_column_page_reader(&self, column: usize) -> Result<Box<dyn PageReader>, ParquetError> {
        let chunk = self.metadata.column(column);
        let start = chunk.dictionary_page_offset().unwrap_or(i64::MAX);
        let start = start.min(chunk.data_page_offset());
        let end = start.checked_add(chunk.compressed_size());
        let len = i64::try_from(self.file.metadata()?.len())?;
        if start < 0 || end.is_none_or(|end| end < start || end > len) {
            return Err(ParquetError::General(format!(
                "its column {} does not lie within the file; it is cut off or damaged, fetch it again",
                chunk.column_path()
            )));
        }
        let in_zstd = matches!(chunk.compression(), Compression::ZSTD(_));
        let chunk = match chunk.compression() {
            // Without a codec the pages come as they are in the file.
            Compression::ZSTD(_) => {
                let plain = chunk.clone().into_builder();
                plain.set_compression(Compression::UNCOMPRESSED).build()?
            }
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::LZ4
            | Compression::LZ4_RAW => chunk.clone(),
            other => {
                return Err(ParquetError::General(format!(
                    "its column {} is packed with {other}, which is not built in; write the file with zstd or snappy",
                    chunk.column_path()
                )));
            }
        };
        let rows = usize::try_from(self.metadata.num_rows())?;
        let pages = SerializedPageReader::new(self.file.clone(), &chunk, rows, None)?;
        Ok(Box::new(Pages::new(pages, in_zstd)))
    }

    fn get_column_bloom_filter(&self, _column: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>, ParquetError> {
        RowIter::from_row_group(projection, self)
    }
}

/// Refuses a column that the record reader would stop the program on.
fn check(field: &Type, is_top: bool) -> Result<(), String> {
    let info = field.get_basic_info();
    if !info.has_repetition() {
        return Err("its schema is damaged".to_owned());
    }
    if field.is_primitive() {
        let is_read = match (field.get_physical_type(), info.converted_type()) {
            (Physical::INT32, kind) => !matches!(kind, ConvertedType::TIME_MICROS),
            (Physical::INT64 | Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE, _) => true,
            (Physical::BYTE_ARRAY, kind) => matches!(
                kind,
                ConvertedType::UTF8
                    | ConvertedType::ENUM
                    | ConvertedType::JSON
                    | ConvertedType::NONE
            ),
            (Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY, _) => false,
        };
        return if is_read {
            Ok(())
        } else {
            Err(format!(
                "it holds values of the type {} ({})",
                field.get_physical_type(),
                info.converted_type()
            ))
        };
    }
    let children = field.get_fields();
    match info.converted_type() {
        ConvertedType::LIST => {
            let [repeated] = children else {
                return Err("its schema is damaged".to_owned());
            };
            if repeated.get_basic_info().repetition() != Repetition::REPEATED
                || !repeated.is_primitive() && repeated.get_fields().is_empty()
            {
                return Err("its schema is damaged".to_owned());
            }
        }
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
            return Err("it holds a map; write it as a struct or as JSON".to_owned());
        }
        _ if children.is_empty() => return Err("it holds structs without fields".to_owned()),
        _ => {}
    }
    if is_top && info.repetition() == Repetition::REPEATED {
        return Err("it is repeated without being a list".to_owned());
    }
    children.iter().try_for_each(|child| check(child, false))
}

fn object_of(row: &Row) -> Result<Value, RowProblem> {
    let fields = row.get_column_iter().map(|(name, field)| {
        let value = value(field).map_err(|reason| {
            RowProblem::WrongType(format!("{name:?} cannot be read: {reason}"))
        })?;
        Ok((name.clone(), value))
    });
    let fields = fields.collect::<Result<Vec<_>, RowProblem>>()?;
    Ok(object(fields))
}

fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::from(()),
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(value) => Value::from(value.as_str()),
        // Some writers leave out that bytes are text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(_) => return Err("it holds bytes that are not UTF-8".to_owned()),
        },
        Field::Group(row) => object_of(row).map_err(|problem| problem.to_string())?,
        Field::ListInternal(list) => {
            let elements = list.elements().iter().map(value);
            Value::from(elements.collect::<Result<Vec<_>, _>>()?)
        }
        other => Value::from(other.to_string()),
    })
}

/// Reads, and turns what stops the parser on a damaged file into an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Fault> {
    match catch_panic(read) {
        Ok(read) => read.map_err(damaged),
        Err(_) => Err(Fault::File(
            "the Parquet file is damaged; fetch it again".to_owned(),
        )),
    }
}

fn damaged(error: ParquetError) -> Fault {
    let reason = match error {
        ParquetError::General(reason) | ParquetError::EOF(reason) => reason,
        other => other.to_string(),
    };
    Fault::File(format!("the Parquet file cannot be read: {reason}"))
}
