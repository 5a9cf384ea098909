-- Infection at ICU admission and sepsis, by stay.
-- Inputs:  stays, suspicion, sofa, diagnoses_icd, infection_codes, microbiologyevents; variables
--          infection (which rule), onset_from, onset_to (h from ICU admission)
-- Output:  stay_id, infected_at, sepsis3 (paired with a culture), septic; one row per stay with an
--          infection, the earliest that has SOFA >= 2 in [-48 h, +24 h] around it; sofa_2_at: the
--          end of the first such hour
-- Rule:    cultures: suspected infection. Fallback, where the admission has no culture at all:
--          an antibiotic and an infection code.
WITH coded AS (
    SELECT DISTINCT d.hadm_id
    FROM diagnoses_icd d
    JOIN infection_codes c ON c.icd_version = d.icd_version AND starts_with(d.icd_code, c.prefix)
), cultured AS (
    SELECT DISTINCT s.stay_id
    FROM stays s
    JOIN microbiologyevents m ON m.subject_id = s.subject_id AND m.chartdate::DATE
        BETWEEN s.admittime::DATE - 1 AND s.dischtime::DATE
), infections AS (
    SELECT s.stay_id, s.intime, s.outtime, p.suspected_at AS infected_at,
        p.suspected_until AS infected_until, TRUE AS sepsis3
    FROM suspicion p
    JOIN stays s USING (hadm_id)
    WHERE p.suspected_at IS NOT NULL AND getvariable('infection') <> 'fallback'
    UNION ALL
    SELECT s.stay_id, s.intime, s.outtime, p.antibiotic_time, p.antibiotic_time, FALSE
    FROM suspicion p
    JOIN stays s USING (hadm_id)
    SEMI JOIN coded USING (hadm_id)
    WHERE getvariable('infection') = 'fallback'
        OR (getvariable('infection') = 'sepsis3_or_fallback'
            AND s.stay_id NOT IN (SELECT stay_id FROM cultured))
), in_window AS (
    SELECT * FROM infections
    WHERE infected_until >= intime + to_hours(getvariable('onset_from'))
        AND infected_at <= intime + to_hours(getvariable('onset_to'))
        AND infected_at < outtime
), scored AS (
    SELECT i.stay_id, i.infected_at, i.sepsis3, coalesce(max(h.sofa_24h) >= 2, FALSE) AS septic,
        min(h.ends_at) FILTER (h.sofa_24h >= 2) AS sofa_2_at
    FROM in_window i
    LEFT JOIN sofa h ON h.stay_id = i.stay_id
        AND h.ends_at >= i.infected_at - INTERVAL 48 HOUR
        AND h.ends_at <= i.infected_until + INTERVAL 24 HOUR
    GROUP BY ALL
)
SELECT * FROM scored
QUALIFY row_number() OVER (PARTITION BY stay_id
    ORDER BY septic DESC, sepsis3 DESC, infected_at) = 1
