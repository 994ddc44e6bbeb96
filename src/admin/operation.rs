//! Registers each operation once, for the router and for the OpenAPI document.

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Components, ComponentsBuilder, ContentBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};

use crate::admin::api_error::ErrorView;
use crate::admin::body::{Body, BodySchema};
use crate::admin::state::AdminState;
use crate::organization::rights::{AccessLevel, Action};

type Schemas = Vec<(String, RefOr<Schema>)>;

/// How the OpenAPI document describes an operation.
pub struct OperationSpec {
    summary: &'static str,
    access: Value,
    organization: bool,
    body: Option<(&'static str, RefOr<Schema>)>,
    response: RefOr<Schema>,
    media_type: &'static str,
    query_params: &'static [(&'static str, &'static str)],
    schemas: Schemas,
}

/// Query parameters of lists.
pub const LIST_PARAMS: &[(&str, &str)] = &[
    ("page", "Page number, from 1."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
    ("sort", "Field to sort by; prefix `-` for descending order. Default: newest first."),
    ("query", "Part of the name, ignoring case."),
    ("status", "Only rows with this status."),
];

/// The registered operations, as an axum router and as OpenAPI paths.
#[derive(Default)]
pub struct Routes {
    router: Router<AdminState>,
    paths: PathsBuilder,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl OperationSpec {
    /// An operation within one organization.
    pub fn in_organization(action: Action, summary: &'static str) -> Self {
        Self::with_access(access_json(action), true, summary)
    }

    /// An operation outside of any organization.
    pub fn platform(action: Action, summary: &'static str) -> Self {
        Self::with_access(access_json(action), false, summary)
    }

    /// An operation that needs no session or token.
    pub fn public(summary: &'static str) -> Self {
        Self::with_access(json!({"public": true}), false, summary)
    }

    fn with_access(access: Value, organization: bool, summary: &'static str) -> Self {
        let response = in_envelope(message_schema().into());
        let (body, media_type, query_params) = (None, "application/json", &[][..]);
        Self {
            summary,
            access,
            organization,
            body,
            response,
            media_type,
            query_params,
            schemas: Vec::new(),
        }
    }

    /// Sets the request body.
    #[must_use]
    pub fn request_body<B: Body>(mut self) -> Self {
        self.body = Some((B::NAME, BodySchema::of::<B>().into()));
        self
    }

    /// The response holds one object of this type.
    #[must_use]
    pub fn response<T: ToSchema>(mut self) -> Self {
        self.response = in_envelope(self.schema_ref::<T>());
        self
    }

    /// The response holds a list of this type.
    #[must_use]
    pub fn list_response<T: ToSchema>(mut self) -> Self {
        let rows = ArrayBuilder::new().items(self.schema_ref::<T>());
        let whole = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        self.response = ObjectBuilder::new()
            .property("data", rows)
            .required("data")
            .property("total", whole())
            .required("total")
            .property("page", whole())
            .required("page")
            .property("size", whole())
            .required("size")
            .property("nextCursor", nullable_string())
            .property("totalIsMinimum", boolean())
            .property("asOf", nullable_string())
            .into();
        self
    }

    /// The response is text of this media type.
    #[must_use]
    pub fn text_response(mut self, media: &'static str) -> Self {
        self.media_type = media;
        self.response = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).into();
        self
    }

    /// Sets the query parameters.
    #[must_use]
    pub const fn query_params(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query_params = query;
        self
    }

    fn schema_ref<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }
}

impl Routes {
    #[must_use]
    pub fn get<H, T>(self, path: &'static str, handler: H, spec: OperationSpec) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        self.add(&Method::GET, path, handler, spec)
    }

    #[must_use]
    pub fn post<H, T>(self, path: &'static str, handler: H, spec: OperationSpec) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        self.add(&Method::POST, path, handler, spec)
    }

    #[must_use]
    pub fn put<H, T>(self, path: &'static str, handler: H, spec: OperationSpec) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        self.add(&Method::PUT, path, handler, spec)
    }

    #[must_use]
    pub fn delete<H, T>(self, path: &'static str, handler: H, spec: OperationSpec) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        self.add(&Method::DELETE, path, handler, spec)
    }

    fn add<H, T>(
        mut self,
        method: &Method,
        path: &'static str,
        handler: H,
        spec: OperationSpec,
    ) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        self.router = self.router.route(path, on(filter, handler));
        self.add_to_document(method, path, spec);
        self
    }

    fn add_to_document(&mut self, method: &Method, path: &'static str, spec: OperationSpec) {
        let public = spec.access.get("public").is_some();
        let mut operation = OperationBuilder::new()
            .summary(Some(spec.summary))
            .operation_id(Some(format!("{} {path}", method.as_str())))
            .tag(path.split('/').nth(2).unwrap_or("service"))
            .extensions(Some(ExtensionsBuilder::new().add("x-access", spec.access).build()));
        for name in path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
            operation = operation.parameter(parameter(name, ParameterIn::Path, ""));
        }
        for (name, description) in spec.query_params {
            operation = operation.parameter(parameter(name, ParameterIn::Query, description));
        }
        if spec.organization {
            let description = "Organization id. Required if the credential does not determine it.";
            let header = parameter("X-Organization-Id", ParameterIn::Header, description);
            operation = operation.parameter(header);
        }
        if public {
            operation = operation.securities(Some([SecurityRequirement::default()]));
        }
        if *method == Method::POST && !public {
            let description = "Requests with the same key are executed once within 24 hours.";
            let header = parameter("Idempotency-Key", ParameterIn::Header, description);
            operation = operation.parameter(header);
        }
        if let Some((name, schema)) = spec.body {
            self.schemas.insert(name.to_owned(), schema);
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(name)));
            let body = RequestBodyBuilder::new()
                .content("application/json", content.build())
                .required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        let content = ContentBuilder::new().schema(Some(spec.response)).build();
        let success =
            ResponseBuilder::new().description("Success.").content(spec.media_type, content);
        let error = ResponseBuilder::new().description("Error.").content(
            "application/json",
            ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorResponse"))).build(),
        );
        let operation = operation.response("200", success).response("default", error);
        let item = PathItem::new(http_method(method), operation);
        self.paths = std::mem::take(&mut self.paths).path(path, item);
        self.schemas.extend(spec.schemas);
    }

    /// Returns the router and the parts of the OpenAPI document.
    pub fn build(self) -> (Router<AdminState>, Paths, Components) {
        let mut schemas = Schemas::new();
        ErrorView::schemas(&mut schemas);
        schemas.push((ErrorView::name().into(), <ErrorView as utoipa::PartialSchema>::schema()));
        let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
        let error = ObjectBuilder::new()
            .property("data", null)
            .required("data")
            .property("code", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)))
            .required("code")
            .property("error", Ref::from_schema_name("Error"))
            .required("error");
        schemas.push(("ErrorResponse".to_owned(), error.into()));
        let schemas = self.schemas.into_iter().chain(schemas);
        let components = ComponentsBuilder::new().schemas_from_iter(schemas).build();
        (self.router, self.paths.build(), components)
    }
}

/// The `x-access` extension: who may perform the action.
fn access_json(action: Action) -> Value {
    let rule = action.rule();
    let in_project = |level| match level {
        AccessLevel::None => None,
        AccessLevel::Own => Some("own"),
        AccessLevel::All => Some("all"),
    };
    json!({
        "operator": true,
        "admin": rule.admin,
        "member": rule.member,
        "permission": rule.permission.map(crate::domain::roles::Permission::name),
        "projectRole": {
            "Owner": in_project(rule.owner),
            "Member": in_project(rule.project_member),
        },
        "selfFunding": rule.self_funding,
        "scope": rule.scope.name(),
    })
}

fn parameter(name: &str, place: ParameterIn, description: &str) -> ParameterBuilder {
    let required = matches!(place, ParameterIn::Path);
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(if required { Required::True } else { Required::False })
        .description(Some(description).filter(|text| !text.is_empty()))
        .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))))
}

fn in_envelope(data: RefOr<Schema>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .property("data", data)
        .required("data")
        .property("code", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)))
        .required("code")
        .property("error", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)))
        .required("error")
        .property("asOf", nullable_string())
        .into()
}

fn message_schema() -> ObjectBuilder {
    ObjectBuilder::new()
        .property("message", ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)))
        .required("message")
}

fn nullable_string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

fn boolean() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean))
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}
