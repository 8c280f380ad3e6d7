//! FaultFilters. Their specs are read strictly, so that a misspelt field is reported.

use serde::Deserialize;
use weft_policy::FaultFilterSpec;

use super::lenient::Lenient;
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct FaultFilter {
    pub metadata: Meta,
    pub spec: Lenient<FaultFilterSpec>,
}
