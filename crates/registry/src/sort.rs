//! Conditions and orders of lists. All text of a caller's is bound, never part of a statement.

use sqlx::{Any, AnyPool, AssertSqlSafe, any::AnyRow, query::Query};

use crate::error::Result;

/// Conditions that all hold.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    conditions: Vec<String>,
    values: Vec<Value>,
}

#[derive(Debug)]
enum Value {
    Number(i64),
    Text(String),
}

/// An order: newest first unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    column: &'static str,
    ascending: bool,
}

impl Order {
    /// By one of `columns`, which the number of the caller's enum selects; 0 is the default.
    pub(crate) fn new(columns: &[&'static str], field: i32, direction: i32) -> Self {
        let index = usize::try_from(field).unwrap_or_default();
        let column = columns.get(index).or(columns.first()).copied().unwrap_or("1");
        Self { column, ascending: direction == 1 }
    }

    /// ` ORDER BY …`, with the id to break ties.
    pub(crate) fn sql(self, id: &str) -> String {
        let direction = if self.ascending { "ASC" } else { "DESC" };
        format!(" ORDER BY {} {direction}, {id} ASC", self.column)
    }
}

impl Filter {
    /// `column` is `value`.
    pub(crate) fn text(&mut self, column: &str, value: impl Into<String>) {
        self.values.push(Value::Text(value.into()));
        self.conditions.push(format!("{column} = ${}", self.values.len()));
    }

    /// `column` is `value`.
    pub(crate) fn number(&mut self, column: &str, value: impl Into<i64>) {
        self.values.push(Value::Number(value.into()));
        self.conditions.push(format!("{column} = ${}", self.values.len()));
    }

    /// One of `columns` contains the term, in any case; a blank term holds always.
    pub(crate) fn search(&mut self, columns: &[&str], term: &str) {
        let term = term.trim().to_lowercase();
        if term.is_empty() {
            return;
        }
        let escaped = term.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        self.values.push(Value::Text(format!("%{escaped}%")));
        let number = self.values.len();
        let any: Vec<_> =
            columns.iter().map(|c| format!("LOWER({c}) LIKE ${number} ESCAPE '\\'")).collect();
        self.conditions.push(format!("({})", any.join(" OR ")));
    }

    /// ` WHERE …`, or nothing.
    pub(crate) fn sql(&self) -> String {
        if self.conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.conditions.join(" AND "))
        }
    }

    /// How many rows of `tables` pass.
    pub(crate) async fn count(&self, pool: &AnyPool, tables: &str) -> Result<i64> {
        let sql = format!("SELECT COUNT(*) AS total FROM {tables}{}", self.sql());
        let row = self.bind(sqlx::query(AssertSqlSafe(sql))).fetch_one(pool).await?;
        Ok(sqlx::Row::try_get(&row, "total")?)
    }

    /// The rows of `sql`, which contains [`Filter::sql`].
    pub(crate) async fn fetch(&self, pool: &AnyPool, sql: String) -> Result<Vec<AnyRow>> {
        Ok(self.bind(sqlx::query(AssertSqlSafe(sql))).fetch_all(pool).await?)
    }

    fn bind<'q>(
        &self,
        mut query: Query<'q, Any, <Any as sqlx::Database>::Arguments>,
    ) -> Query<'q, Any, <Any as sqlx::Database>::Arguments> {
        for value in &self.values {
            query = match value {
                Value::Number(number) => query.bind(*number),
                Value::Text(text) => query.bind(text.clone()),
            };
        }
        query
    }
}
