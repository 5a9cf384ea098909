-- Infections suspected around ICU admission.
-- Inputs:  stays, suspicion, diagnoses_icd, infection_codes, microbiologyevents; variables
--          infection (which rule), onset_from, onset_to (h from ICU admission)
-- Output:  stay_id, infected_at, infected_until (later where only the culture's date is known),
--          sepsis3 (paired with a culture)
-- Rule:    cultures: suspected infection. Fallback, where the admission has no culture at all:
--          an antibiotic and an infection code.
WITH codes AS (  -- each once: a prefix is compared with every code
    SELECT DISTINCT icd_version, icd_code FROM diagnoses_icd
), coded AS (
    SELECT DISTINCT d.hadm_id
    FROM diagnoses_icd d
    SEMI JOIN (
        SELECT icd_version, icd_code
        FROM codes
        JOIN infection_codes c USING (icd_version)
        WHERE starts_with(icd_code, c.prefix)
    ) meant USING (icd_version, icd_code)
), cultured AS (
    SELECT DISTINCT s.stay_id
    FROM stays s
    JOIN microbiologyevents m ON m.subject_id = s.subject_id AND m.chartdate::DATE
        BETWEEN s.admittime::DATE - 1 AND s.dischtime::DATE
), suspected AS (
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
)
SELECT stay_id, infected_at, infected_until, sepsis3
FROM suspected
WHERE infected_until >= intime + to_hours(getvariable('onset_from'))
    AND infected_at <= intime + to_hours(getvariable('onset_to'))
    AND infected_at < outtime
