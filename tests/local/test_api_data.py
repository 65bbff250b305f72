"""The data API as in PostgREST: reading, writing and calling."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from tests.local.api import Api, error_of
from tests.local.test_stack import until


@pytest.fixture
def anon(api: Api) -> httpx.Client:
    return api.http()


@pytest.fixture(scope="module")
def reader(api: Api) -> dict[str, Any]:
    return api.sign_up("reader")


@pytest.fixture
def signed_in(api: Api, reader: dict[str, Any]) -> httpx.Client:
    return api.http(token=reader["access_token"])


def rows(client: httpx.Client, path: str, **headers: str) -> Any:
    answer = client.get(f"/rest/v1/{path}", headers=headers)
    assert answer.is_success, answer.text
    return answer.json()


def eventually(send: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """The first response with this status: the schema cache is read again in the background."""
    for _ in range(1500):
        answer = send()
        if answer.status_code == status:
            break
        time.sleep(0.02)
    return answer


# Values --------------------------------------------------------------------------------------------------------------


def test_numbers_keep_every_digit_and_times_their_form(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books?id=eq.1")
    assert '"price":12.50,' in answer.text
    assert '"sold":9007199254740993,' in answer.text
    assert '"printed_at":"2026-01-02T03:04:05.678901+00:00"' in answer.text
    assert '"shelved_at":"2026-01-02T03:04:05"' in answer.text
    assert '"cover":"\\\\x00ff"' in answer.text


def test_numbers_keep_every_digit_inside_embedded_rows(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/authors?select=books!books_author_id_fkey(sold,price)&id=eq.1")
    assert '"sold": 9007199254740993, "price": 12.50' in answer.text


def test_numbers_keep_every_digit_on_the_way_in(signed_in: httpx.Client) -> None:
    body = '{"title": "Big", "sold": 9223372036854775807, "price": 9999999999.99}'
    answer = signed_in.post(
        "/rest/v1/books?select=sold,price",
        content=body,
        headers={"content-type": "application/json", "prefer": "return=representation"},
    )
    assert answer.text == '[{"sold":9223372036854775807,"price":9999999999.99}]'


def test_text_that_looks_like_json_stays_text_in_jsonb(signed_in: httpx.Client) -> None:
    assert rows(signed_in, "books?id=eq.2&select=details") == [{"details": '{"a": 1}'}]
    assert rows(signed_in, "books?id=eq.1&select=details->text") == [{"text": '{"a": 1}'}]
    for value in ('{"looks": "like json"}', "42", "null", '"quoted"'):
        answer = signed_in.post(
            "/rest/v1/books?select=details",
            json={"title": "Text", "details": value},
            headers={"prefer": "return=representation"},
        )
        assert answer.json() == [{"details": value}]


def test_bytes_go_in_and_out_as_postgres_writes_them(signed_in: httpx.Client) -> None:
    answer = signed_in.post(
        "/rest/v1/books?select=cover",
        json={"title": "Bytes", "cover": "\\x0102ff"},
        headers={"prefer": "return=representation"},
    )
    assert answer.json() == [{"cover": "\\x0102ff"}]


def test_a_json_path_gives_json_or_text(anon: httpx.Client) -> None:
    assert rows(anon, "books?id=eq.1&select=details->pages,p:details->>pages,details->deep->x->1") == [
        {"pages": 120, "p": "120", "x": 2}
    ]


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("id=eq.2", [2]),
        ("id=neq.2", [1, 3]),
        ("id=gt.1&id=lt.3", [2]),
        ("id=in.(1,3)", [1, 3]),
        ("id=in.()", []),
        ("id=not.in.(1,3)", [2]),
        ('title=in.("Letters, mostly",Songs)', [2, 3]),
        ("price=is.null", [3]),
        ("price=not.is.null", [1, 2]),
        ("price=is.not_null", [1, 2]),
        ("title=like.*o*s", [1, 3]),
        ("title=ilike.NOTES", [1]),
        ("title=like(any).{N*,S*}", [1, 3]),
        ("title=match.^[NS]", [1, 3]),
        ("id=eq(any).{2,3}", [2, 3]),
        ("tags=cs.{math}", [1]),
        ("tags=ov.{music,math}", [1, 3]),
        ("tags=cd.{music}", [2, 3]),
        ("editor_id=isdistinct.1", [1, 2]),
        ("title=fts.songs", [3]),
        ("title=fts(english).letter", [2]),
        ("title=wfts(english).letters or songs", [2, 3]),
        ("details->>pages=eq.120", [1]),
        ("or=(id.eq.1,and(id.gt.2,title.eq.Songs))", [1, 3]),
        ("and=(id.gt.1,id.not.eq.3)", [2]),
        ("not.or=(id.eq.1,id.eq.2)", [3]),
        ('or=(title.eq."Letters, mostly",id.in.(1,3))', [1, 2, 3]),
        ("or=(tags.cs.{math,old},price.is.null)", [1, 3]),
    ],
)
def test_filters(anon: httpx.Client, query: str, ids: list[int]) -> None:
    assert [row["id"] for row in rows(anon, f"books?select=id&id=lte.3&order=id&{query}")] == ids


def test_order_limit_and_offset(anon: httpx.Client) -> None:
    assert [row["id"] for row in rows(anon, "books?id=lte.3&order=price.desc.nullslast,id&select=id")] == [1, 2, 3]
    assert [row["id"] for row in rows(anon, "books?id=lte.3&order=price.asc.nullsfirst&select=id")] == [3, 2, 1]
    assert [row["id"] for row in rows(anon, "books?id=lte.3&order=id&limit=1&offset=1&select=id")] == [2]


def test_range_header_pages_and_count_returns_the_total(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books?id=lte.3&order=id", headers={"range": "0-1", "prefer": "count=exact"})
    assert (answer.status_code, answer.headers["content-range"], len(answer.json())) == (206, "0-1/3", 2)
    answer = anon.get("/rest/v1/books?id=lte.3&select=id", headers={"prefer": "count=exact"})
    assert (answer.status_code, answer.headers["content-range"]) == (200, "0-2/3")
    answer = anon.get("/rest/v1/books?id=lte.3&offset=9", headers={"prefer": "count=exact"})
    assert error_of(answer) == (416, "PGRST103")
    assert anon.head("/rest/v1/books?id=lte.3", headers={"prefer": "count=exact"}).headers["content-range"] == "0-2/3"


def test_planned_and_estimated_counts_are_refused_by_the_pre_request(anon: httpx.Client) -> None:
    for kind in ("planned", "estimated"):
        answer = anon.get("/rest/v1/books?select=id", headers={"prefer": f"count={kind}"})
        assert error_of(answer) == (400, "PT400")


def test_single_object_request_refuses_other_counts(anon: httpx.Client) -> None:
    one = {"accept": "application/vnd.pgrst.object+json"}
    assert rows(anon, "books?id=eq.1&select=title", **one) == {"title": "Notes"}
    assert error_of(anon.get("/rest/v1/books?id=eq.99", headers=one)) == (406, "PGRST116")
    assert error_of(anon.get("/rest/v1/books?id=lte.3", headers=one)) == (406, "PGRST116")


def test_nulls_are_stripped_on_request(anon: httpx.Client) -> None:
    accept = {"accept": "application/vnd.pgrst.array+json;nulls=stripped"}
    assert rows(anon, "books?id=eq.3&select=id,price", **accept) == [{"id": 3}]


def test_rows_as_csv(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books?select=id,title&id=in.(1,2)&order=id", headers={"accept": "text/csv"})
    assert answer.text == 'id,title\n1,Notes\n2,"Letters, mostly"'


def test_columns_are_renamed_and_cast(anon: httpx.Client) -> None:
    assert rows(anon, "books?id=eq.1&select=name:title,price::text,sold::text") == [
        {"name": "Notes", "price": "12.50", "sold": "9007199254740993"}
    ]


# Embedding -----------------------------------------------------------------------------------------------------------


def test_embedding_works_to_one_to_many_and_by_junction(anon: httpx.Client) -> None:
    assert rows(anon, "books?id=eq.1&select=title,author:authors!author_id(name),shelves(label)") == [
        {"title": "Notes", "author": {"name": "Ada"}, "shelves": [{"label": "front"}, {"label": "back"}]}
    ]
    assert rows(anon, "books?id=eq.3&select=author_id(name),editor:editor_id(name)") == [
        {"author_id": {"name": "Bo"}, "editor": {"name": "Ada"}}
    ]
    assert rows(anon, "books?id=eq.2&select=editor:editor_id(name)") == [{"editor": None}]


def test_a_key_of_several_columns_relates(anon: httpx.Client) -> None:
    assert rows(anon, "shelves?select=label,placements(book_id)&order=number") == [
        {"label": "front", "placements": [{"book_id": 1}]},
        {"label": "back", "placements": [{"book_id": 1}, {"book_id": 3}]},
    ]


def test_a_unique_key_relates_one_to_one_both_ways(anon: httpx.Client) -> None:
    assert rows(anon, "authors?id=lte.2&order=id&select=name,biographies(text)") == [
        {"name": "Ada", "biographies": {"text": "Wrote notes."}},
        {"name": "Bo", "biographies": None},
    ]


def test_self_reference_embeds_by_column_and_by_hint(anon: httpx.Client) -> None:
    assert rows(anon, "parts?id=eq.2&select=name,parent:parent_id(name)") == [
        {"name": "left", "parent": {"name": "root"}}
    ]
    assert rows(anon, "parts?id=eq.1&select=name,children:parts!parent_id(name)") == [
        {"name": "root", "children": [{"name": "left"}, {"name": "right"}]}
    ]


def test_a_relation_to_itself_goes_down_by_its_name(anon: httpx.Client) -> None:
    assert rows(anon, "parts?id=eq.1&select=name,parts(name)") == [
        {"name": "root", "parts": [{"name": "left"}, {"name": "right"}]}
    ]


def test_related_rows_have_filters_order_and_limit_of_their_own(anon: httpx.Client) -> None:
    path = "authors?id=lte.2&order=id&select=name,books!author_id(title)"
    assert rows(anon, f"{path}&books.id=lte.3&books.order=title.desc&books.limit=1") == [
        {"name": "Ada", "books": [{"title": "Notes"}]},
        {"name": "Bo", "books": [{"title": "Songs"}]},
    ]
    assert rows(anon, "authors?select=name,books!author_id!inner(title)&books.title=eq.Songs") == [
        {"name": "Bo", "books": [{"title": "Songs"}]}
    ]
    assert rows(anon, "authors?id=lte.2&select=name,biographies()&biographies=is.null") == [{"name": "Bo"}]
    assert [
        row["id"] for row in rows(anon, "books?id=lte.3&select=id,author:author_id()&order=author(name).desc,id")
    ] == [3, 1, 2]


def test_a_count_of_related_rows(anon: httpx.Client) -> None:
    assert rows(anon, "authors?id=eq.1&select=name,books!author_id(count)&books.id=lte.3") == [
        {"name": "Ada", "books": [{"count": 2}]}
    ]


def test_related_columns_spread_beside_our_own(anon: httpx.Client) -> None:
    assert rows(anon, "books?id=eq.3&select=title,...authors!author_id(writer:name,mood)") == [
        {"title": "Songs", "writer": "Bo", "mood": "sad"}
    ]


def test_views_relate_through_the_tables_they_show(anon: httpx.Client) -> None:
    assert rows(anon, "cheap_books?book=eq.2&select=title,author:authors(name)") == [
        {"title": "Letters, mostly", "author": {"name": "Ada"}}
    ]


def test_ambiguous_relation_requires_a_hint(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books?select=title,authors(name)")
    assert error_of(answer) == (300, "PGRST201")
    assert "authors!books_editor_id_fkey" in answer.json()["hint"]


def test_unknown_relation_is_named(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books?select=title,parts(name)")
    assert error_of(answer) == (400, "PGRST200")
    assert "'books' and 'parts'" in answer.json()["message"]


# Writing -------------------------------------------------------------------------------------------------------------


def test_insert_returns_minimal_rows_or_location(signed_in: httpx.Client) -> None:
    answer = signed_in.post("/rest/v1/authors", json={"name": "Minimal"})
    assert (answer.status_code, answer.text) == (201, "")
    answer = signed_in.post(
        "/rest/v1/authors?select=name",
        json=[{"name": "X1"}, {"name": "X2"}],
        headers={"prefer": "return=representation"},
    )
    assert (answer.status_code, answer.json()) == (201, [{"name": "X1"}, {"name": "X2"}])
    answer = signed_in.post(
        "/rest/v1/shelves", json={"room": 7, "number": 8, "label": "x"}, headers={"prefer": "return=headers-only"}
    )
    assert answer.headers["location"] == "/shelves?room=eq.7&number=eq.8"


def test_an_empty_list_inserts_nothing(signed_in: httpx.Client) -> None:
    answer = signed_in.post("/rest/v1/authors", json=[], headers={"prefer": "return=representation"})
    assert (answer.status_code, answer.json()) == (201, [])


def test_rows_of_different_shapes_are_refused_unless_columns_are_named(signed_in: httpx.Client) -> None:
    mixed = [{"name": "S1", "mood": "sad"}, {"name": "S2"}]
    assert error_of(signed_in.post("/rest/v1/authors", json=mixed)) == (400, "PGRST102")
    answer = signed_in.post(
        "/rest/v1/authors?columns=name,mood&select=mood", json=mixed, headers={"prefer": "return=representation"}
    )
    assert answer.json() == [{"mood": "sad"}, {"mood": None}]


def test_missing_values_become_defaults_on_request(signed_in: httpx.Client) -> None:
    answer = signed_in.post(
        '/rest/v1/books?columns="title","sold"&select=sold',
        json=[{"title": "D1", "sold": 5}, {"title": "D2"}],
        headers={"prefer": "return=representation, missing=default"},
    )
    assert answer.json() == [{"sold": 5}, {"sold": 0}]


def test_upsert_merges_or_ignores_and_reports_creation(signed_in: httpx.Client) -> None:
    merge = {"prefer": "resolution=merge-duplicates,return=representation"}
    address = "/rest/v1/authors?on_conflict=name&select=name,mood"
    first = signed_in.post(address, json={"name": "Up", "mood": "sad"}, headers=merge)
    second = signed_in.post(address, json={"name": "Up", "mood": "glad"}, headers=merge)
    assert (first.status_code, second.status_code, second.json()) == (201, 200, [{"name": "Up", "mood": "glad"}])
    ignore = {"prefer": "resolution=ignore-duplicates,return=representation"}
    assert signed_in.post(address, json={"name": "Up", "mood": "sad"}, headers=ignore).json() == []


def test_put_replaces_the_row_its_address_names(signed_in: httpx.Client) -> None:
    address = "/rest/v1/parts?id=eq.50"
    shown = {"prefer": "return=representation"}
    assert signed_in.put(address, json={"id": 50, "parent_id": None, "name": "new"}, headers=shown).status_code == 201
    assert signed_in.put(address, json={"id": 50, "parent_id": 1, "name": "newer"}).status_code == 204
    assert rows(signed_in, "parts?id=eq.50") == [{"id": 50, "parent_id": 1, "name": "newer"}]
    assert error_of(signed_in.put(address, json={"id": 51, "name": "other"})) == (400, "PGRST115")
    assert error_of(signed_in.put("/rest/v1/parts?name=eq.x", json={"id": 50})) == (405, "PGRST105")


def test_update_and_delete_return_filtered_rows_with_relations(signed_in: httpx.Client) -> None:
    shown = {"prefer": "return=representation"}
    signed_in.post("/rest/v1/books", json={"id": 60, "title": "Draft", "author_id": 2})
    answer = signed_in.patch(
        "/rest/v1/books?title=eq.Draft&select=id,title,author_id(name)", json={"title": "Final"}, headers=shown
    )
    assert (answer.status_code, answer.json()) == (200, [{"id": 60, "title": "Final", "author_id": {"name": "Bo"}}])
    answer = signed_in.delete("/rest/v1/books?id=eq.60&select=title,author:author_id(name)", headers=shown)
    assert answer.json() == [{"title": "Final", "author": {"name": "Bo"}}]
    assert signed_in.patch("/rest/v1/books?id=eq.60", json={"title": "Gone"}).status_code == 204


def test_changing_every_row_needs_a_filter(signed_in: httpx.Client) -> None:
    assert error_of(signed_in.patch("/rest/v1/authors", json={"mood": "sad"})) == (400, "21000")
    assert error_of(signed_in.delete("/rest/v1/authors")) == (400, "21000")


def test_a_refused_change_did_not_happen(signed_in: httpx.Client) -> None:
    one = {"accept": "application/vnd.pgrst.object+json", "prefer": "return=representation"}
    assert error_of(signed_in.patch("/rest/v1/parts?id=in.(2,3)", json={"name": "same"}, headers=one)) == (
        406,
        "PGRST116",
    )
    few = {"prefer": "handling=strict,max-affected=1"}
    assert error_of(signed_in.patch("/rest/v1/parts?id=in.(2,3)", json={"name": "same"}, headers=few)) == (
        400,
        "PGRST124",
    )
    assert rows(signed_in, "parts?name=eq.same") == []


def test_rows_come_in_as_csv_and_as_a_form(signed_in: httpx.Client) -> None:
    shown = {"prefer": "return=representation"}
    answer = signed_in.post(
        "/rest/v1/authors?select=name,mood",
        content='name,mood\n"C, one",glad\nC2,NULL\n',
        headers=shown | {"content-type": "text/csv"},
    )
    assert answer.json() == [{"name": "C, one", "mood": "glad"}, {"name": "C2", "mood": None}]
    answer = signed_in.post("/rest/v1/authors?select=name", data={"name": "Form"}, headers=shown)
    assert answer.json() == [{"name": "Form"}]


def test_an_unknown_column_is_named(signed_in: httpx.Client) -> None:
    answer = signed_in.post("/rest/v1/authors", json={"name": "x", "nickname": "y"})
    assert error_of(answer) == (400, "PGRST204")
    assert "'nickname'" in answer.json()["message"]
    assert error_of(signed_in.get("/rest/v1/authors?select=nickname")) == (400, "42703")


# Functions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("add", {"a": 1, "b": 2}, 3),
        ("add", {"a": 1}, 2),
        ("book_titles", {}, ["Notes", "Letters, mostly", "Songs"]),
        ("first_author", {}, {"id": 1, "name": "Ada", "mood": "glad", "born": "1815-12-10"}),
        ("split", {"whole": "abc"}, {"head": "a", "tail": "bc"}),
        ("echo", {"any": [1, {"thing": None}]}, {"any": [1, {"thing": None}]}),
        ("joined", {"words": ["a", "b"]}, "a-b"),
    ],
)
def test_functions_return_their_result(anon: httpx.Client, name: str, arguments: Any, expected: Any) -> None:
    answer = anon.post(f"/rest/v1/rpc/{name}", json=arguments)
    assert answer.status_code == 200, answer.text
    assert answer.json()[:3] == expected if isinstance(expected, list) else answer.json() == expected


def test_functions_are_read_by_get(anon: httpx.Client) -> None:
    assert anon.get("/rest/v1/rpc/add?a=40&b=2").json() == 42
    assert anon.get("/rest/v1/rpc/joined?words=x&words=y").json() == "x-y"


def test_the_rows_of_a_function_are_filtered_ordered_and_related(anon: httpx.Client) -> None:
    path = "/rest/v1/rpc/books_by?author=Ada&select=title,author:author_id(name)&id=lte.3&order=title&limit=1"
    answer = anon.get(path, headers={"prefer": "count=exact"})
    assert answer.json() == [{"title": "Letters, mostly", "author": {"name": "Ada"}}]
    assert answer.headers["content-range"] == "0-0/2"


def test_a_function_without_result_answers_204(signed_in: httpx.Client) -> None:
    answer = signed_in.post("/rest/v1/rpc/touch", json={})
    assert (answer.status_code, answer.text) == (204, "")
    assert rows(signed_in, "authors?name=eq.touched&select=name") == [{"name": "touched"}]


def test_reading_never_writes(signed_in: httpx.Client) -> None:
    assert error_of(signed_in.get("/rest/v1/rpc/touch")) == (405, "25006")
    assert error_of(signed_in.post("/rest/v1/rpc/peek_and_write", json={})) == (405, "25006")


def test_functions_set_status_and_headers_of_the_answer(anon: httpx.Client) -> None:
    answer = anon.post("/rest/v1/rpc/answer_teapot", json={})
    assert (answer.status_code, answer.headers["x-tea"]) == (418, "green")


def test_line_break_in_a_function_header_becomes_a_space(api: Api, anon: httpx.Client) -> None:
    api.sql("""create function public.answer_break() returns void language sql as $$
        select set_config('response.headers', '[{"X-Broken": "one\\r\\nX-Injected: two"}, {"bad name": "x"}]', true) $$;
        grant execute on function public.answer_break() to anon""")
    answer = eventually(lambda: anon.post("/rest/v1/rpc/answer_break", json={}), 204)
    assert (answer.headers["x-broken"], "x-injected" in answer.headers) == ("one  X-Injected: two", False)


@pytest.mark.parametrize(
    "query",
    [
        f"select={'authors('.join([''] * 31)}id{')' * 30}",
        f"select={','.join(f'a{n}:author_id(id)' for n in range(120))}",
        f"or={'(and' * 40}(id.eq.1){')' * 40}",
        f"select={','.join(['*'] * 600)}",
    ],
    ids=["deep", "wide", "nested conditions", "columns"],
)
def test_too_large_request_is_refused(anon: httpx.Client, query: str) -> None:
    assert error_of(anon.get(f"/rest/v1/books?{query}")) == (400, "PGRST100")


def test_an_unknown_function_or_argument_is_named(anon: httpx.Client) -> None:
    answer = anon.post("/rest/v1/rpc/add", json={"a": 1, "c": 2})
    assert error_of(answer) == (404, "PGRST202")
    assert "public.add(a, c)" in answer.json()["message"]
    assert error_of(anon.post("/rest/v1/rpc/nothing", json={})) == (404, "PGRST202")


def test_ambiguous_function_call_is_refused(api: Api, anon: httpx.Client) -> None:
    api.sql("create function public.same(x int) returns int language sql return 1")
    api.sql("create function public.same(x text) returns int language sql return 2")
    api.sql("grant execute on all functions in schema public to anon")
    assert eventually(lambda: anon.post("/rest/v1/rpc/same", json={"x": 1}), 300).json()["code"] == "PGRST203"


# The request, as the database sees it --------------------------------------------------------------------------------


def test_request_settings_are_visible_in_the_database(api: Api, anon: httpx.Client) -> None:
    api.sql("""
        create function public.noting() returns trigger language plpgsql as $$
        begin
          new.label := current_setting('request.method') || ' ' || current_setting('request.path') || ' '
            || (current_setting('request.headers')::json ->> 'x-org-id');
          return new;
        end $$;
        create trigger noting before update on public.shelves for each row execute function public.noting();
    """)
    answer = api.admin(**{"x-org-id": "o-1", "prefer": "return=representation"}).patch(
        "/rest/v1/shelves?room=eq.1&number=eq.1&select=label", json={"label": "?"}
    )
    api.sql(
        "drop function public.noting() cascade; update public.shelves set label = 'front' where (room, number) = (1, 1)"
    )
    assert answer.json() == [{"label": "PATCH /shelves o-1"}]
    assert anon.post("/rest/v1/rpc/setting", json={"name": "request.path"}).json() == "/rpc/setting"


def test_the_projects_own_check_runs_before_every_request(api: Api, anon: httpx.Client) -> None:
    api.sql("""
        create function private.check_blocked() returns void language plpgsql as $$
        begin
          if current_setting('request.headers')::json ->> 'x-blocked' = 'yes' then
            raise sqlstate 'PT429' using message = 'Too many requests';
          end if;
        end $$;
        grant execute on function private.check_blocked() to anon;
    """)
    with api.database.connect("supabase_admin") as superuser:
        superuser.execute("alter role authenticator set pgrst.db_pre_request = 'private.check_blocked'")
        superuser.execute("notify pgrst, 'reload config'")
        blocked = {"x-blocked": "yes"}
        try:
            until(
                lambda: anon.get("/rest/v1/books?id=eq.1", headers=blocked).is_error,
                "the API has reloaded its settings",
            )
            for method in ("GET", "PATCH"):
                answer = anon.request(method, "/rest/v1/books?id=eq.1", headers=blocked, json={"title": "x"})
                assert error_of(answer) == (429, "PT429")
            assert anon.get("/rest/v1/books?id=eq.1").status_code == 200
        finally:
            superuser.execute("alter role authenticator set pgrst.db_pre_request = 'private.check_request'")
            superuser.execute("notify pgrst, 'reload config'")
    until(
        lambda: anon.get("/rest/v1/books?id=eq.1", headers=blocked).is_success, "the API has reloaded its own settings"
    )


def test_callers_on_one_connection_share_no_state(api: Api, reader: dict[str, Any]) -> None:
    for _ in range(5):
        answer = api.http(token=reader["access_token"], **{"x-org-id": "mine"}).post("/rest/v1/rpc/whoami", json={})
        assert answer.status_code == 200, answer.text
        assert answer.json()["uid"] == reader["user"]["id"]
        stranger = api.http().post("/rest/v1/rpc/whoami", json={}).json()
        assert (stranger["uid"], stranger["current"], stranger["session"]) == (None, "anon", "authenticator")
        assert api.http().post("/rest/v1/rpc/setting", json={"name": "request.headers"}).json().find("mine") == -1


def test_no_setting_outlives_its_request(api: Api) -> None:
    def setting(client: httpx.Client, name: str) -> Any:
        return client.post("/rest/v1/rpc/setting", json={"name": name}).json()

    assert setting(api.http(), "statement_timeout") == "3s"
    for _ in range(5):
        assert api.http().post("/storage/v1/object/list/any", json={}).json() == []
        assert not setting(api.admin(), "storage.operation")
        assert setting(api.admin(), "statement_timeout") == "8s"


def test_the_session_user_is_never_a_superuser(api: Api) -> None:
    users = api.sql(
        "select usename from pg_stat_activity where application_name like 'api%' and datname = current_database()"
    )
    assert {name for (name,) in users} <= {"authenticator", "supabase_auth_admin", "supabase_storage_admin"}
    assert not any(
        row[0] for row in api.sql("select rolsuper from pg_roles where rolname = any(%s)", [name for (name,) in users])
    )


def test_api_changes_no_policies_or_grants(api: Api, anon: httpx.Client, signed_in: httpx.Client) -> None:
    acl = "select relname, relacl::text from pg_class where relnamespace = 'public'::regnamespace order by 1"
    before = api.sql(acl)
    assert error_of(anon.get("/rest/v1/vault")) == (401, "42501")
    assert error_of(signed_in.get("/rest/v1/vault")) == (403, "42501")
    assert error_of(anon.post("/rest/v1/books", json={"title": "x"})) == (401, "42501")
    assert error_of(signed_in.post("/rest/v1/diaries", json={"owner": api.keys.jwk["kid"], "text": "x"})) == (
        403,
        "42501",
    )
    assert signed_in.post("/rest/v1/diaries", json={"text": "mine"}).status_code == 201
    assert api.http(token=api.sign_up()["access_token"]).get("/rest/v1/diaries").json() == []
    assert api.sql(acl) == before
    functions = "select distinct proowner::regrole::text from pg_proc where pronamespace = 'auth'::regnamespace"
    assert api.sql(functions) == [("supabase_auth_admin",)]


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("23514", 400), ("P0001", 400), ("23505", 409), ("23503", 409), ("23502", 400), ("22P02", 400), ("22023", 400),
        ("PT402", 402), ("PT404", 404), ("PT409", 409), ("PT410", 410), ("PT422", 422), ("PT400", 400),
        ("57014", 500), ("P0002", 500), ("40001", 500), ("40P01", 500), ("53300", 503), ("08006", 503), ("28000", 403),
        ("25006", 405), ("54001", 500), ("XX000", 500), ("42P01", 404), ("42883", 404), ("0A000", 400), ("42P17", 500),
    ],
)  # fmt: skip
def test_database_error_keeps_its_message_and_gets_postgrest_status(
    signed_in: httpx.Client, state: str, status: int
) -> None:
    answer = signed_in.post("/rest/v1/rpc/fail", json={"state": state})
    assert answer.status_code == status
    assert answer.json() == {"code": state, "message": "it went wrong", "details": "the detail", "hint": "the hint"}


def test_not_allowed_is_401_for_strangers_and_403_for_users(anon: httpx.Client, signed_in: httpx.Client) -> None:
    call = {"state": "42501"}
    assert error_of(anon.post("/rest/v1/rpc/fail", json=call)) == (401, "42501")
    assert error_of(signed_in.post("/rest/v1/rpc/fail", json=call)) == (403, "42501")


def test_a_function_may_compose_its_whole_error(api: Api, anon: httpx.Client) -> None:
    api.sql("""
        create function public.compose() returns void language plpgsql as $$ begin
          raise sqlstate 'PGRST' using
            message = '{"code": "123", "message": "Payment Required", "details": "d", "hint": "h"}',
            detail = '{"status": 402, "headers": {"X-Powered-By": "Nerd Rage"}}';
        end $$;
        grant execute on function public.compose() to anon;
    """)
    answer = eventually(lambda: anon.post("/rest/v1/rpc/compose", json={}), 402)
    assert answer.headers["x-powered-by"] == "Nerd Rage"
    assert answer.json() == {"code": "123", "message": "Payment Required", "details": "d", "hint": "h"}


def test_constraints_of_tables(signed_in: httpx.Client) -> None:
    assert error_of(signed_in.post("/rest/v1/books", json={"title": ""})) == (400, "23514")
    assert error_of(signed_in.post("/rest/v1/authors", json={"name": "Ada"})) == (409, "23505")
    assert error_of(signed_in.post("/rest/v1/books", json={"title": "x", "author_id": 999})) == (409, "23503")
    assert error_of(signed_in.post("/rest/v1/authors", json={"name": None})) == (400, "23502")
    assert error_of(signed_in.get("/rest/v1/books?id=eq.abc")) == (400, "22P02")
    assert error_of(signed_in.post("/rest/v1/authors", json={"name": "x", "mood": "odd"})) == (400, "22P02")


def test_a_statement_that_takes_too_long_ends(api: Api, anon: httpx.Client) -> None:
    with api.database.connect("supabase_admin") as superuser:
        superuser.execute("alter role anon set statement_timeout = '200ms'")
        superuser.execute("notify pgrst, 'reload config'")
        try:
            assert error_of(anon.post("/rest/v1/rpc/slow", json={"seconds": 5})) == (500, "57014")
        finally:
            superuser.execute("alter role anon set statement_timeout = '3s'")
            superuser.execute("notify pgrst, 'reload config'")
    until(lambda: anon.post("/rest/v1/rpc/slow", json={"seconds": 0.3}).is_success, "the API has reloaded its settings")


@pytest.mark.parametrize(
    "limit", [" " * 20_000 + "1", "((1))", "( 1 )", "0x1", "0b1", "-(1", "(1", "1e0", "+1", "1_0", ""]
)
def test_limit_is_read_as_haskell_reads_integers(anon: httpx.Client, limit: str) -> None:
    shown = len(anon.get("/rest/v1/books", params={"limit": limit, "select": "id"}).json())
    assert shown == 1 if limit.strip() in {"1", "((1))", "( 1 )", "0x1", "0b1"} else shown > 1


def test_long_numbers_are_limits_too(anon: httpx.Client) -> None:
    assert error_of(anon.get("/rest/v1/books?offset=" + "9" * 5000)) == (400, "22003")
    assert error_of(anon.get("/rest/v1/books", headers={"range": "9" * 50 + "-"})) == (400, "22003")
    assert error_of(anon.get("/rest/v1/books?limit=-" + " " * 20_000 + "9")) == (416, "PGRST103")


def test_a_body_of_many_keys_is_answered(signed_in: httpx.Client) -> None:
    body = {f"key{each}": 1 for each in range(300_000)}
    assert error_of(signed_in.post("/rest/v1/diaries", json=body)) == (400, "PGRST204")
    unknown = signed_in.post("/rest/v1/rpc/nothing", json=body)
    assert error_of(unknown) == (404, "PGRST202")
    assert len(unknown.content) < 50_000


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("books?id=foo.1", "PGRST100"),
        ("books?id=eq(any)", "PGRST100"),
        ("books?select=id,(title", "PGRST100"),
        ("books?select=id,,title", "PGRST100"),
        ("books?order=id.sideways", "PGRST100"),
        ("books?or=(id.eq.1", "PGRST100"),
        ("books?id=is.maybe", "PGRST100"),
        ("books?authors.id=eq.1", "PGRST108"),
        ("books?select=sold.sum()", "PGRST123"),
        ("books?select=id::evil", "42704"),
        ("books?title=eq.%00", "22021"),
    ],
)
def test_malformed_query_is_a_client_error(anon: httpx.Client, path: str, code: str) -> None:
    assert error_of(anon.get(f"/rest/v1/{path}")) == (400, code)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("{", "application/json"),
        ("", "application/json"),
        ("[1,2]", "application/json"),
        ("name: x", "application/yaml"),
        ("", "text/csv"),
    ],
)
def test_malformed_bodies_are_the_clients_fault(signed_in: httpx.Client, content: str, content_type: str) -> None:
    answer = signed_in.post("/rest/v1/authors", content=content, headers={"content-type": content_type})
    assert error_of(answer) == (400, "PGRST102")


@pytest.mark.parametrize("name", ['x"; drop table books; --', "x' or '1'='1", "a)b", 'q"uote', "\\", "$1"])
def test_names_and_values_are_never_part_of_the_statement(anon: httpx.Client, name: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for query in ({"title": f"eq.{name}"}, {"title": f"in.({quoted})"}, {"or": f"(title.eq.{quoted},id.eq.0)"}):
        answer = anon.get("/rest/v1/books", params=query)
        assert (answer.status_code, answer.json()) == (200, [])
    for query in ({"select": quoted}, {"order": quoted}, {quoted: "eq.1"}, {"select": f"details->{quoted}::int"}):
        assert anon.get("/rest/v1/books", params=query).status_code in {200, 400}
    assert anon.get("/rest/v1/books?select=id&id=eq.1").json() == [{"id": 1}]


def test_unexposed_object_is_404(anon: httpx.Client) -> None:
    assert error_of(anon.get("/rest/v1/users", headers={"accept-profile": "auth"})) == (406, "PGRST106")
    assert error_of(anon.get("/rest/v1/auth.users")) == (404, "PGRST205")
    assert error_of(anon.get("/rest/v1/pg_class")) == (404, "PGRST205")
    assert error_of(anon.get("/rest/v1/books/1")) == (404, "PGRST125")
    assert error_of(anon.request("TRACE", "/rest/v1/books")) == (405, "PGRST117")
    assert error_of(anon.get("/rest/v1/books", headers={"accept": "image/png"})) == (406, "PGRST107")


def test_strict_handling_refuses_unknown_preferences(anon: httpx.Client) -> None:
    answer = anon.get("/rest/v1/books", headers={"prefer": "handling=strict, sparkle=yes"})
    assert error_of(answer) == (400, "PGRST122")


# The schema cache ----------------------------------------------------------------------------------------------------


def test_a_new_table_is_served_after_its_reload(api: Api) -> None:
    admin = api.admin()
    for name in ("new_one", "new_two"):
        api.sql(f"create table public.{name} (id int); grant select on public.{name} to service_role")
        assert eventually(partial(admin.get, f"/rest/v1/{name}"), 200).json() == []


def test_a_change_without_notification_stays_unknown_until_a_reload(api: Api) -> None:
    admin = api.admin()
    with api.database.connect("supabase_admin") as superuser:
        superuser.execute("set session_replication_role = replica")  # no event triggers
        superuser.execute("create table public.quiet (id int); grant select on public.quiet to service_role")
        assert error_of(admin.get("/rest/v1/quiet")) == (404, "PGRST205")
        superuser.execute("notify pgrst, 'reload schema'")
    assert eventually(lambda: admin.get("/rest/v1/quiet"), 200).json() == []


def test_the_description_of_the_api_is_for_the_secret_key(api: Api, anon: httpx.Client) -> None:
    description = api.admin().get("/rest/v1/").json()
    books = description["definitions"]["books"]["properties"]
    assert books["sold"] == {"type": "integer", "format": "int64", "default": 0}
    assert description["definitions"]["authors"]["properties"]["mood"]["enum"] == ["glad", "sad"]
    assert books["author_id"]["description"].endswith("<fk table='authors' column='id'/>")
    assert "/rpc/add" in description["paths"]
    assert {"$ref": "#/parameters/rowFilter.books.sold"} in description["paths"]["/books"]["get"]["parameters"]
    api.sql("create table public.secret (id int); revoke all on public.secret from service_role")
    assert "/secret" not in eventually(partial(api.admin().get, "/rest/v1/"), 200).json()["paths"]
    assert anon.get("/rest/v1/").status_code == 403
