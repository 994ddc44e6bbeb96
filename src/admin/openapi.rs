//! The OpenAPI document: made of the operations, nothing of it by hand.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder, Paths};

/// The document of these operations.
pub fn document(paths: Paths, mut components: Components) -> OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let info = InfoBuilder::new()
        .title("Meteor Gateway: admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Every operation says in `x-access` who may use it. Errors have one form everywhere.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components))
        .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .build()
}
