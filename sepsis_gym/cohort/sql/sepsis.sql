-- Sepsis, by stay.
-- Inputs:  infections, sofa
-- Output:  stay_id, infected_at, sepsis3 (paired with a culture), septic; one row per stay with an
--          infection, the earliest that has SOFA >= 2 in [-48 h, +24 h] around it; sofa_2_at: the
--          end of the first such hour
WITH scored AS (
    SELECT i.stay_id, i.infected_at, i.sepsis3, coalesce(max(h.sofa_24h) >= 2, FALSE) AS septic,
        min(h.ends_at) FILTER (h.sofa_24h >= 2) AS sofa_2_at
    FROM infections i
    LEFT JOIN sofa h ON h.stay_id = i.stay_id
        AND h.ends_at >= i.infected_at - INTERVAL 48 HOUR
        AND h.ends_at <= i.infected_until + INTERVAL 24 HOUR
    GROUP BY ALL
)
SELECT * FROM scored
QUALIFY row_number() OVER (PARTITION BY stay_id
    ORDER BY septic DESC, sepsis3 DESC, infected_at) = 1
