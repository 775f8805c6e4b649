use crate::data::columns::Columns;
use crate::data::example;
use crate::error::RowProblem;

/// The columns that the rows of a file are made of.
pub trait Wanted {
    /// Refuses a file whose rows cannot be made of these columns.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, found: &[String]) -> Result<(), RowProblem>;

    /// Returns every column that may be read.
    fn names(&self) -> Vec<&str>;
}

impl Wanted for Columns {
    fn check(&self, found: &[String]) -> Result<(), RowProblem> {
        example::check_columns(found, self)
    }

    fn names(&self) -> Vec<&str> {
        self.all().collect()
    }
}
